"""Parses YAML of anybody: fast, and refusing a short text that stands for an enormous or endless tree."""

from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, if it is there, is seven times as fast
MAX_NODES = 100_000  # of a YAML document with its aliases written out


def parse_yaml(text: str) -> Any:
    """The document of a YAML text, None if it is empty.

    Raises yaml.YAMLError, also for aliases that make a short text an enormous or endless tree, and RecursionError.
    """
    loader = LOADER(text)
    try:
        if (node := loader.get_single_node()) is None:
            return None
        _count_nodes(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_nodes(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """The number of nodes in the tree of a node, with aliases written out. counts: by node, 0 while it is counted."""
    if (count := counts.get(node)) is None:
        counts[node] = 0
        content = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = [child for pair in content for child in (pair if isinstance(pair, tuple) else (pair,))]
        count = counts[node] = 1 + sum(_count_nodes(child, counts) for child in children)
    if not 0 < count <= MAX_NODES:
        words = "holds itself" if count == 0 else f"stands for more than {MAX_NODES} values"
        raise yaml.MarkedYAMLError(problem=f"an alias {words}", problem_mark=node.start_mark)
    return count
