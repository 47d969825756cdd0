"""The words of simulated titles and descriptions. A theme's phrases are what text features can learn from."""

GENRES = (
    "Action", "Adventure", "Animation", "Comedy", "Crime", "Documentary", "Drama", "Family", "Fantasy",
    "History", "Horror", "Music", "Mystery", "Romance", "Science Fiction", "Sport", "Thriller", "War",
)  # fmt: skip

# theme -> (what the first sentence says it is about, what the second sentence adds)
THEMES = {
    "heist": ("one last heist", "the vault has never been opened"),
    "space": ("a lost starship", "the stars keep their distance"),
    "revenge": ("a patient revenge", "every debt is paid in full"),
    "wedding": ("a wedding gone wrong", "the bride has second thoughts"),
    "courtroom": ("a trial that divides a city", "the jury cannot agree"),
    "robots": ("machines that dream", "a robot learns to lie"),
    "dragons": ("the last dragons", "fire returns to the mountain"),
    "kitchen": ("a small kitchen with great plans", "the chef tastes everything"),
    "spies": ("a spy without a country", "the code changes at midnight"),
    "ghosts": ("a house full of ghosts", "the dead have opinions"),
    "school": ("the worst class of the school", "the exam is tomorrow"),
    "football": ("a football team of underdogs", "the final goes to extra time"),
    "trenches": ("two soldiers in the trenches", "the whistle blows at dawn"),
    "jazz": ("a jazz band on the road", "the trumpet comes in late"),
    "ocean": ("a crossing of the ocean", "the whales sing below"),
    "desert": ("a caravan in the desert", "the well is dry"),
    "detective": ("a detective who cannot sleep", "the butler has an alibi"),
    "vampires": ("a family of vampires", "the sun is never kind"),
    "royalty": ("a queen and her rivals", "the crown weighs more each year"),
    "startup": ("a company in a garage", "the investors want it by Monday"),
    "farm": ("a farm at the edge of ruin", "the harvest is late"),
    "twins": ("twins parted at birth", "one of them knows"),
    "circus": ("a circus in winter", "the tightrope frays"),
    "pirates": ("pirates and their map", "the island moves"),
    "time travel": ("a clock that runs backwards", "yesterday is not safe either"),
    "zombies": ("a town after the outbreak", "the doors will not hold"),
    "hospital": ("a night shift at the hospital", "the surgeon trembles"),
    "election": ("an election in a small town", "both candidates are bluffing"),
    "mountains": ("a climb beyond reason", "the rope holds two"),
    "cats": ("a cat with nine plans", "nobody feeds it on time"),
    "chess": ("a chess prodigy", "the queen is sacrificed"),
    "trains": ("strangers on a night train", "one berth is empty"),
    "archaeology": ("a tomb that was sealed for good", "the map is in a dead language"),
    "dance": ("a dance school in the suburbs", "the music stops too soon"),
    "hackers": ("hackers against a bank", "the password was a birthday"),
    "island": ("castaways on an island", "the signal comes from inland"),
    "western": ("a sheriff without a horse", "the saloon closes early"),
    "samurai": ("a samurai out of service", "the sword is borrowed"),
    "motherhood": ("a mother and her grown children", "dinner is always at eight"),
    "prison": ("an escape from prison", "the guard counts twice"),
    "climate": ("the year the rivers rose", "the dam was built for another century"),
    "wolves": ("a pack of wolves and its valley", "winter decides"),
    "boxing": ("a boxer past her prime", "the bell saves no one"),
    "painter": ("a painter who forges", "the signature is perfect"),
    "witches": ("three witches and a village", "the spell asks for a price"),
    "road trip": ("a road trip without a map", "the car gives up first"),
    "exile": ("an exile who comes home", "the letters were never sent"),
    "radio": ("a radio station at night", "a caller knows too much"),
}

TONES = (
    "quiet", "tense", "warm", "dark", "restless", "playful", "bitter", "tender", "wild", "sly", "stark",
    "bright",
)  # fmt: skip
PLACES = (
    "Lisbon", "a northern harbour", "Nairobi", "the high plains", "Osaka", "a border town", "Montreal",
    "the old city", "a village without a road", "Buenos Aires", "the suburbs", "Kraków", "an island chain",
    "Mumbai", "the far south",
)  # fmt: skip
ADJECTIVES = (
    "Silent", "Golden", "Broken", "Distant", "Hidden", "Crooked", "Burning", "Frozen", "Gentle", "Hollow",
    "Last", "Lonely", "Lucky", "Midnight", "Paper", "Perfect", "Quiet", "Restless", "Savage", "Scarlet",
    "Second", "Secret", "Silver", "Slow", "Sunken", "Tender", "Velvet", "Wandering", "Wicked", "Winter",
)  # fmt: skip
NOUNS = (
    "Harbour", "Garden", "Mirror", "River", "Letter", "Kingdom", "Shadow", "Orchard", "Signal", "Promise",
    "Machine", "Stranger", "Bridge", "Lantern", "Empire", "Summer", "Border", "Carnival", "Compass", "Crown",
    "Echo", "Engine", "Falcon", "Horizon", "Island", "Journey", "Key", "Labyrinth", "Market", "Moon", "Night",
    "Ocean", "Parade", "Passenger", "Pilot", "Rain", "Road", "Sister", "Storm", "Tower", "Valley", "Voyage",
    "Wolf", "Window",
)  # fmt: skip
PATTERNS = (
    "The {a} {n}", "{a} {n}", "A {a} {n}", "{n} of the {a} {m}", "The {n} and the {m}", "{a} {n}, {m}",
)  # fmt: skip
