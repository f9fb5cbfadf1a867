"""The scenarios, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from scenarios import (
    certificates, commands, disk, doors, enrolment, external, field, flapping, fleet, harness, identity, interop, load, local,
    memory, modbus_types, opcua_recovery, opcua_security, power, quarantine, refusals, sessions, trees,
)
from stage import Stage

Scenario = Callable[[Stage], None]

ALL: dict[str, Scenario] = {
    "harness": harness.proves_the_peers,
    "leaf": identity.leaf_to_cloud,
    "envelope": identity.upstream_over_3_1_1,
    "identity": identity.strangers_are_refused,
    "certificates": certificates.strict_and_never_resumed,
    "est": enrolment.by_token_and_by_itself,
    "crl": enrolment.revocation_lists,
    "external": external.by_map_and_pin,
    "interop": interop.clients_keys_and_versions,
    "revoked": fleet.one_revoked,
    "rotated": fleet.rotated_under_load,
    "rotation-killed": fleet.rotations_killed,
    "users": doors.passwords,
    "websocket": doors.websocket,
    "modbus": field.modbus,
    "modbus-types": modbus_types.types,
    "opcua": field.opcua_without_security,
    "opcua-secure": field.opcua_signed_and_encrypted,
    "opcua-security": opcua_security.policies,
    "opcua-recovery": opcua_recovery.recovers,
    "commands": commands.to_a_leaf,
    "load": load.cloud_away,
    "flapping": flapping.flapping,
    "crash": power.kills,
    "crash-either": power.kills_with_either,
    "sessions": sessions.survive_kills,
    "trees": trees.trees,
    "quarantine": quarantine.quarantine,
    "config": refusals.ten_mistakes,
    "trouble": refusals.keeps_running,
    "disk": disk.full_and_back,
    "power": power.power_cut,
    "io-errors": power.io_errors,
    "memory": memory.idle_with_ten_devices,
    "local": local.without_upstream,
    "drain": local.stops_and_goes_on,
}
