"""Short documents on four subjects, for tests that read text: 24 of them, of eight sentences each."""

from __future__ import annotations

PLACES = (
    "Arden", "Bellrock", "Corvane", "Dunmoor", "Eastwick", "Fallow", "Garth", "Hollin", "Inverley", "Jessop",
    "Kirkby", "Larch", "Merrow", "Norwood", "Oakham", "Penhale", "Quarley", "Rushmere", "Selby", "Tarn",
    "Umber", "Velden", "Wexcombe", "Yarrow",
)  # fmt: skip

SUBJECTS = {
    "river": (
        "The river at {place} rises from a spring under the moor and is {n} miles long.",
        "In winter the water at {place} covers the meadows and the cattle go up the hill.",
        "Salmon come up to {place} in October, and herons wait for them below the weir.",
        "A ferryman called {name} rowed people across for {n} years before the bridge was built.",
        "The bridge at {place} has {n} arches of grey stone and was paid for by a toll.",
        "Below the bridge the stream turns slow and brown, and boys fish there for eels.",
        "The mill of {name} ground corn with that water until its wheel broke in a flood.",
        "Past {place} the river meets the tide, and ships of {n} tons can lie at the quay.",
    ),
    "bakery": (
        "The bakery in {place} lights its oven at {n} minutes past two in the morning.",
        "{name} the baker weighs flour, salt and water, and leaves the dough to rise under a cloth.",
        "By four o'clock the loaves of {place} are shaped and lie in rows on wooden boards.",
        "Rye bread takes {n} minutes in the oven, and the crust must sound hollow when tapped.",
        "Buns with currants are made on Fridays, because {name} learned the recipe from an aunt.",
        "The first customers of {place} knock before the shop is open and buy rolls still hot.",
        "What is not sold by evening becomes breadcrumbs, or goes to the pigs of a neighbour.",
        "The oven in {place} is swept with a wet broom, and {n} sacks are ordered for the week.",
    ),
    "observatory": (
        "The observatory on the hill of {place} has a dome of copper and a telescope of {n} inches.",
        "On clear nights {name} opens the shutter and waits until the air inside is cold.",
        "The astronomers of {place} measured the light of {n} faint stars over eleven years.",
        "A comet was first seen there by {name}, who took it for a smudge on the lens.",
        "Clouds end the work of most nights, so plates are compared and sums are checked.",
        "The planet Saturn shows its rings plainly in that telescope, and six of its moons.",
        "Street lamps in {place} now make the sky too bright to see galaxies of magnitude {n}.",
        "A new mirror will be carried to a mountain far from {place}, where the nights are dark.",
    ),
    "railway": (
        "The railway reached {place} after {n} years of digging through clay and chalk.",
        "The engineer {name} laid the line along the valley to keep the gradient gentle.",
        "Steam engines took on water at {place} from a tank that held {n} hundred gallons.",
        "The stationmaster kept roses on the platform and a clock that was never late.",
        "Goods trains carried slate, wool and milk from {place} to the market of the county.",
        "A signal left at danger by {name} once held the night express for {n} minutes.",
        "When the motor road was opened, fewer passengers came and the branch lost money.",
        "The rails at {place} were taken up, and walkers follow the track under the old bridges.",
    ),
}
NAMES = ("Alder", "Briggs", "Cotton", "Dyer", "Ellis", "Frost", "Hale")


def documents() -> dict[str, str]:
    """Name -> text. Every document tells of one subject at one place, in one order."""
    found = {}
    for i, place in enumerate(PLACES):
        subject = list(SUBJECTS)[i % len(SUBJECTS)]
        sentences = [
            sentence.format(place=place, name=NAMES[(i + k) % len(NAMES)], n=7 + 5 * i + k)
            for k, sentence in enumerate(SUBJECTS[subject])
        ]
        found[f"{subject}-{place.lower()}"] = " ".join(sentences)
    return found
