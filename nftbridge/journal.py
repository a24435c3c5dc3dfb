"""Changes to a host as plain data, and what they make of a document.

The documents are those of `config.host_to_data`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from nftbridge import config
from nftbridge.model.changes import Attach, Change, Create, Delete, Detach, Publish, Withdraw


def change_to_data(change: Change) -> dict[str, object]:
    """A change as plain data, for `after`."""
    match change:
        case Create(network):
            return {"create": config.network_to_data(network)}
        case Delete(name):
            return {"delete": name}
        case Attach(name, container):
            return {"attach": config.container_to_data(container), "network": name}
        case Detach(name, container_name):
            return {"detach": container_name, "network": name}
        case Publish(name, box, publication):
            spot = {"network": name, "container": box}
            return {"publish": config.publication_to_data(publication), **spot}
        case Withdraw(name, box, publication):
            spot = {"network": name, "container": box}
            return {"withdraw": config.publication_to_data(publication), **spot}


def after(document: object, changes: Iterable[dict[str, Any]]) -> object:
    """What `host_to_data` would say of the host after changes in data, as it said `document`.

    Raises `KeyError` or `TypeError` where the changes do not belong to the document.
    """
    found = dict(cast("dict[str, Any]", document))
    networks: dict[str, Any] = {network["name"]: network for network in found["network"]}
    own: set[str] = set()  # what may be changed in place, since the document is not ours
    for change in changes:
        if "create" in change:
            networks[change["create"]["name"]] = change["create"]
            own.discard(change["create"]["name"])
        elif "delete" in change:
            del networks[change["delete"]]
        else:
            name = change["network"]
            if name not in own:
                own.add(name)
                networks[name] = _copied(networks[name])
            _change_network(networks[name], change)
    found["network"] = list(networks.values())
    return found


def _copied(network: dict[str, Any]) -> dict[str, Any]:
    boxes = [{**box, "publish": list(box["publish"])} for box in network["container"]]
    return {**network, "container": boxes}


def _change_network(network: dict[str, Any], change: dict[str, Any]) -> None:
    boxes = network["container"]
    if "attach" in change:
        boxes.append({**change["attach"], "publish": list(change["attach"]["publish"])})
        return
    wanted = change.get("detach", change.get("container"))
    place = next(i for i, box in enumerate(boxes) if box["name"] == wanted)
    if "detach" in change:
        del boxes[place]
    elif "publish" in change:
        boxes[place]["publish"].append(change["publish"])
    else:
        boxes[place]["publish"].remove(change["withdraw"])
