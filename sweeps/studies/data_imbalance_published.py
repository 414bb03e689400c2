"""What the paper on children's faces published: before and after further training on CAFE, by class."""

# accuracy on CAFE (2 to 8 years) and NIMH-ChEFS (10 to 17 years) of a network of adults' faces, then trained on CAFE
CAFE = {
    "": (0.671, 0.921),
    "angry": (0.553, 0.991),
    "neutral": (0.452, 0.921),
    "sad": (0.491, 0.912),
}
CAFE_BEFORE = {"disgust": 0.818, "fear": 0.667, "happy": 0.902, "surprise": 0.772}  # the paper gives no after
NIMH = {
    "angry": (0.827, 0.211),
    "fear": (0.888, 0.927),
    "happy": (1.0, 0.963),
    "neutral": (0.793, 0.856),
    "sad": (0.798, 0.596),
}
_IMAGES = {"angry": 104, "fear": 107, "happy": 108, "neutral": 111, "sad": 104}  # of NIMH-ChEFS
NIMH_BEFORE = 0.861
# The paper gives no accuracy of all after; this is what its numbers by class amount to.
NIMH_AFTER = round(sum(count * NIMH[name][1] for name, count in _IMAGES.items()) / sum(_IMAGES.values()), 3)
