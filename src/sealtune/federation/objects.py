"""Flower's messages as the objects that its Fleet API moves one by one.

A Flower message is a tree of objects, each named by the SHA-256 of its bytes: the message, its
records, arrays, and pieces of arrays of at most 5 MiB. Here a message is taken apart into them and
put together again; how many there may be, and how large, is checked before anything else.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Array, Message
from flwr.app.message.message import remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_body,
    get_object_id,
    get_object_tree,
    get_object_type_from_object_content,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from sealtune.errors import FrameError

MAX_OBJECT = 8 << 20  # bytes; Flower cuts arrays into pieces of 5 MiB
MAX_OBJECTS = 16  # of one message: a frame of 33 MiB needs 11


@dataclass(frozen=True)
class Parts:
    """A message taken apart.

    Attributes:
        head: the message without content; it knows its id.
        tree: names of the objects.
        contents: name -> bytes.
    """

    head: Message
    tree: ObjectTree
    contents: Mapping[str, bytes]


def take_apart(message: Message) -> Parts:
    """The objects of a message of ours; the message learns its id."""
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id  # as Flower's grids do
        objects = get_all_nested_objects(message)
        contents = {name: item.deflate() for name, item in objects.items()}
        return Parts(remove_content_from_message(message), get_object_tree(message), contents)


def names(tree: ObjectTree) -> list[str]:
    """The names of a tree's objects, each once.

    Raises:
        FrameError: there are too many.
    """
    identities: dict[str, None] = {}
    todo, seen = [tree], 0
    while todo:
        node = todo.pop()
        seen += 1
        identities[node.object_id] = None
        todo.extend(node.children)
        if seen + len(todo) > MAX_OBJECTS:
            raise FrameError(f"a Flower message of more than {MAX_OBJECTS} objects")
    return list(identities)


def put_together(identity: str, contents: Mapping[str, bytes]) -> Message:
    """The message with this id.

    Raises:
        FrameError: an object is too large or not what its name says, or they make no message.
    """
    for name, content in contents.items():
        if len(content) > MAX_OBJECT:
            raise FrameError(f"an object of {len(content)} bytes, limit {MAX_OBJECT}")
        if get_object_id(content) != name:
            raise FrameError("an object that is not what its name says")
    try:
        listed = sum(map(_listed_pieces, contents.values()))
    except Exception as error:  # as below
        raise FrameError(f"objects that make no message: {type(error).__name__}") from error
    if listed > MAX_OBJECTS:
        raise FrameError(f"arrays of {listed} pieces, limit {MAX_OBJECTS}")
    try:
        message = inflate_object_from_contents(identity, dict(contents))
    except Exception as error:  # whatever Flower's parsers raise for what was made up
        raise FrameError(f"objects that make no message: {type(error).__name__}") from error
    if not isinstance(message, Message):
        raise FrameError("objects that make no message")
    message.metadata.__dict__["_message_id"] = identity
    return message


def _listed_pieces(content: bytes) -> int:
    """How many pieces an object lists if it is an array; it may list one piece many times."""
    if get_object_type_from_object_content(content) != Array.__qualname__:
        return 0
    return len(json.loads(get_object_body(content, Array))["arraychunk_ids"])
