"""The cost of prototypes that are like patches that a person forbade."""

from __future__ import annotations

import torch
from torch import Tensor


def forbidden_cost(similarity: Tensor, class_identity: Tensor, is_forbidden: Tensor) -> Tensor:
    """How similar the prototypes of a class are to the forbidden patch of the class that each is most similar to.

    It is averaged over the prototypes of the class, and then over the classes that have both prototypes and forbidden
    patches. The paper averages over all classes; here the strength of the term does not depend on how many classes have
    nothing to forget. The released program adds up instead, over the prototypes and over all forbidden patches of a
    class.

    Args:
        similarity: (F, P), of every forbidden patch to every prototype.
        class_identity: (P, K), > 0 where a prototype belongs to a class; it counts in each of them.
        is_forbidden: (F, K) bool, whether a patch is forbidden to the prototypes of a class.

    Returns:
        Scalar; 0 if no prototype has a forbidden patch. The gradient flows through the most similar patch of each
        prototype, the first on a tie.

    Raises:
        ValueError: the shapes disagree.

    Source: Bontempelli, Teso, Tentori, Giunchiglia, Passerini 2023, "Concept-level Debugging of Part-Prototype
        Networks" (ProtoPDebug), the forgetting loss.
    """
    wanted = (len(is_forbidden), len(class_identity))
    if similarity.shape != wanted or is_forbidden.shape[1:] != class_identity.shape[1:]:
        raise ValueError(
            f"similarity: must have shape (F, P) = {wanted} to match is_forbidden {tuple(is_forbidden.shape)} and "
            f"class_identity {tuple(class_identity.shape)}; got {tuple(similarity.shape)}. Give (F, K) and (P, K)."
        )
    classes = (is_forbidden.any(dim=0) & (class_identity > 0).any(dim=0)).nonzero().flatten()  # (C,)
    if not len(classes):
        return similarity.sum() * 0
    is_own = class_identity.T[classes] > 0  # (C, P)
    of_class = is_forbidden.T[classes][:, :, None]  # (C, F, 1)
    largest = torch.where(of_class, similarity, -torch.inf).max(dim=1).values  # (C, P)
    return (torch.where(is_own, largest, 0).sum(dim=1) / is_own.sum(dim=1)).mean()
