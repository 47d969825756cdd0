"""What the gate weighs: what must hold first, evidence, verdict, ledger of looks, and the report of all of it."""
