"""The scenarios: first those that run two at a time, the longest ahead; then those that measure and run alone."""

from __future__ import annotations

from collections.abc import Callable

from scenarios import (
    batch, certificates, clock, commands, disk, doors, enrolment, external, field, flapping, fleet, harness, identity,
    interop, load, local, memory, modbus_types, opcua_events, opcua_filters, opcua_history, opcua_rate, opcua_recovery,
    opcua_security, power, quarantine, refusals, sessions, small_disk, trees,
)
from stage import Stage

Scenario = Callable[[Stage], None]

SIDE_BY_SIDE: dict[str, Scenario] = {
    "disk": disk.full_and_back,
    "opcua-recovery": opcua_recovery.recovers,
    "flapping": flapping.flapping,
    "batch": batch.cut_and_killed,
    "clock": clock.ten_years,
    "small-disk": small_disk.offline,
    "batch-refused": batch.refused,
    "leaf": identity.leaf_to_cloud,
    "envelope": identity.upstream_over_3_1_1,
    "identity": identity.strangers_are_refused,
    "certificates": certificates.strict_and_never_resumed,
    "est": enrolment.by_token_and_by_itself,
    "crl": enrolment.revocation_lists,
    "external": external.by_map_and_pin,
    "interop": interop.clients_keys_and_versions,
    "rotation-killed": fleet.rotations_killed,
    "users": doors.passwords,
    "websocket": doors.websocket,
    "modbus": field.modbus,
    "modbus-types": modbus_types.types,
    "opcua": field.opcua_without_security,
    "opcua-secure": field.opcua_signed_and_encrypted,
    "opcua-security": opcua_security.policies,
    "opcua-events": opcua_events.events,
    "opcua-history": opcua_history.fills,
    "opcua-filters": opcua_filters.filters,
    "commands": commands.to_a_leaf,
    "sessions": sessions.survive_kills,
    "trees": trees.trees,
    "quarantine": quarantine.quarantine,
    "config": refusals.ten_mistakes,
    "trouble": refusals.keeps_running,
    "local": local.without_upstream,
}

# They measure times, rates or memory, or load the machine by themselves.
ALONE: dict[str, Scenario] = {
    "harness": harness.proves_the_peers,
    "revoked": fleet.one_revoked,
    "rotated": fleet.rotated_under_load,
    "load": load.cloud_away,
    "crash": power.kills,
    "crash-either": power.kills_with_either,
    "power": power.power_cut,
    "io-errors": power.io_errors,
    "memory": memory.idle_with_ten_devices,
    "drain": local.stops_and_goes_on,
    "opcua-rate": opcua_rate.rate,
}

ALL = SIDE_BY_SIDE | ALONE
# In the long form alone: with open62541, which takes minutes to build.
LONG = {"opcua-rate"}
