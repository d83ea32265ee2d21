"""Features of all videos to two axes; the same features give the same map."""

import numpy as np

from discovr_jax.explore.videos import ExploreError

KINDS = ("pca", "umap")


def project(features: np.ndarray, kind: str = "pca") -> tuple[np.ndarray, tuple[str, str]]:
    """Two coordinates per video.

    Args:
      features: float32 [N, D].
      kind: "pca", the two directions of most variance; "umap" (McInnes et al., 2018), where it is installed.

    Returns:
      float32 [N, 2], and the names of the axes.

    Raises:
      ExploreError: umap-learn is not installed.
    """
    if kind == "umap":
        try:
            import umap
        except ImportError:
            raise ExploreError("--projection=umap needs umap-learn: pip install umap-learn (or take pca)") from None
        # A seed makes it the same each time, and takes one thread.
        reducer = umap.UMAP(n_neighbors=min(15, len(features) - 1), metric="cosine", random_state=0, n_jobs=1)
        return np.asarray(reducer.fit_transform(features), np.float32), ("UMAP 1", "UMAP 2")
    from sklearn.decomposition import PCA

    if features.shape[1] < 2:
        return np.column_stack([features[:, 0], np.zeros(len(features), np.float32)]), ("feature", "")
    pca = PCA(2, random_state=0)  # of wide features the solver draws
    places = np.asarray(pca.fit_transform(features), np.float32)
    shares = 100 * np.nan_to_num(pca.explained_variance_ratio_)
    first, second = (f"PC {number}, {share:.0f} % of variance" for number, share in enumerate(shares, 1))
    return places, (first, second)
