"""Build what a server loads: the artifact folder with its index, and the archive of artifact and worker code."""
