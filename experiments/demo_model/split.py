"""Decides which items are held out from training, by a hash of the item itself.

A hash needs no list of held-out items and no random state: the training generator and the
evaluation ask the same question about the same key and can never disagree.
"""

from hashlib import blake2b


def is_held_out(*key: object, share: float = 0.1) -> bool:
    """Tell whether the item with this key is kept for evaluation.

    Args:
        *key: What identifies the item, such as family, template and names.
        share: Fraction of all items to hold out.
    """
    digest = blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
