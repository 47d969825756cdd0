"""How strong each force of the simulated world is, in units of log preference unless said otherwise.

They are constants, not parameters: together they were set so that the default world is as hard as real
logs are (popularity far below personal models, and these far below the oracle).
Sizes, dates and seed are in params.yaml.
"""

LATENTS = 24  # width of the taste space
TASTE = 8.0  # weight of the match between a user's taste and an item
DEMOGRAPHY = 0.45  # share of a taste's length that age, gender, country and plan explain
DRIFT = 1.0  # radians that the fastest taste turns during the whole period
QUALITY = 1.5  # standard deviation of what makes an item liked by everybody
MAINSTREAM = 0.35  # how much users differ in following the crowd, relative to the average
HEAT_SENSITIVITY = 0.45  # how much users differ in following what is new and talked about, log standard deviation
DAYPART = 1.0  # weight of what the hour of the day and the weekend favour
DEVICE = 0.8  # weight of what the screen favours
SHORT_ON_PHONE = 0.5  # phones and tablets favour short items, televisions long ones
LANGUAGE = 1.0  # items in a language of one's country
MATURITY = 0.35  # older users lean to more mature items

MOOD = 1.6  # weight of what was played last
MOOD_MEMORY = 0.6  # what is left of a play's weight in the mood after each further play
SEQUEL_WITHOUT_START = 1.5  # cost of a part whose preceding part the user has not seen
SEQUEL_NEXT = (
    4.2,
    3.0,
    2.3,
    1.7,
    1.3,
    1.0,
    0.7,
    0.5,
)  # bonus of the next part, by plays since the preceding one

NEW_SHARE = 0.12  # items released within 180 days of the period
NEW_BOOST = 1.5  # mean bonus of an item on the day of its release
NEW_DAYS = 10.0  # days after which the bonus is down to 1/e
AGE_COST = 0.4  # cost of each e-fold of age
AGE_DAYS = 120.0  # age at which that cost sets in
SWING = 0.8  # how far an item's general appeal rises and falls over the months
SWING_DAYS = (60.0, 240.0)  # length of one such wave
BURSTS = 1.5  # items that start to trend, each day, per 2,000 items
BURST_BOOST = 2.1  # mean bonus at the start of a burst
BURST_DAYS = (2.0, 7.0)  # days after which a burst is down to 1/e

LATE_SHARE = 0.03  # plays on phone and tablet that the platform learns of late
