//! Every limit of DESIGN section 8, reached by a client, with a neighbour beside it whose round trips are timed.
//!
//! The key is the one under `[broker.limits]` (and the field of [`fieldgate_broker::Limits`]); "—" is a limit that has
//! no key of its own yet. The answer is the reason code of MQTT 5, then what a 3.1.1 client sees. What is counted is a
//! field of [`fieldgate_broker::BrokerMetrics`]; where a connection ends, its reason is in the `Disconnected` event too.
//!
//! | limit | key | answer | counted | test |
//! |---|---|---|---|---|
//! | packet 256 KiB | `packet` | 0x95, close | event packet-too-large | `sizes::a_packet_over_the_limit_ends_the_connection` |
//! | CONNECT 16 KiB | `connect_packet` | 0x95 in the CONNACK | `refused` | `sizes::a_connect_over_its_limit_is_refused` |
//! | topic 1 KiB, 16 levels | `topic`, `topic_levels` | 0x90, close; filters 0x8F, 0x80 | `publish_refused`, `subscription_refused` | `sizes::topics_that_are_too_long_or_too_deep_are_refused` |
//! | 64 subscriptions per client | `subscriptions` | 0x97, 0x80 | `subscription_refused` | `sizes::a_client_gets_so_many_subscriptions_and_no_more` |
//! | 16 filters per SUBSCRIBE | `filters_per_subscribe` | 0x97 each, 0x80 | `subscription_refused` | `sizes::a_subscribe_with_too_many_filters_gets_none` |
//! | receive maximum 32 | `receive_maximum` | QoS 2 0x93; else not read any further | event receive-maximum-exceeded | `flow::more_unacknowledged_publishes_than_announced_end_the_connection`, `flow::reading_pauses_while_commits_wait` |
//! | 32 in flight to a client | `in_flight` | the next ones wait | | `flow::a_client_has_so_many_in_flight_and_the_rest_waits` |
//! | session queue 1,000 or 1 MiB, live | `session_queue_messages`, `session_queue_bytes`; `full_queue_wait` | publishers wait ≤ 1 s, then the receiver gets 0x97 | `queue_waits`, `slow_receivers` | `flow::publishers_wait_for_a_full_queue_and_then_the_receiver_goes`, `flow::a_queue_is_full_by_its_bytes_too` |
//! | the same, absent | the same | the oldest goes | `dropped_queue_full` | `flow::an_absent_client_keeps_the_newest_by_number_and_by_bytes` |
//! | session expiry 7 days | `session_expiry` | Session Expiry Interval in the CONNACK | `dropped_session_ended` | `attached::a_session_lives_no_longer_than_the_limit` |
//! | output buffer 256 KiB, no byte taken for 10 s | `output_buffer`, `receiver_stall` | 0x97, close | `slow_receivers` | `flow::output_waits_for_a_client_that_takes_nothing_and_then_it_goes` |
//! | 200 messages/s, burst 1,000 | `message_rate`, `message_burst` | not read any faster | `rate_waits` | `flow::devices_are_slowed_to_their_rate_and_apps_and_gateways_are_not` |
//! | retained 100 per client | `retained_per_client` | 0x97; 3.1.1: delivered, not kept | `retained_refused` | `retained::a_client_keeps_so_many_retained_messages` |
//! | retained 10,000 or 16 MiB | `retained_messages`, `retained_bytes` | 0x97 | `retained_refused` | `retained::all_clients_together_keep_so_many_messages_and_bytes` |
//! | keep-alive 0 | `keep_alive` | Server Keep Alive, 0x8D; 3.1.1: TCP keep-alive | event keep-alive | `attached::a_keep_alive_of_zero_is_watched_by_the_server_or_by_tcp` |
//! | 2,000 connections | `connections` | 0x97, 0x03 | `refused` | `attached::connections_are_bounded_and_a_place_is_free_again_at_once` |
//! | one per device, 8 per app | `connections_per_app` | 0x8E to the older one; 0x97, 0x03 | `took_over`, `refused` | `attached::a_device_has_one_connection_and_an_app_eight` |
//! | 4,096 pending sockets | `pending_sockets` | the oldest is closed | `pending_evicted` | `doors::the_oldest_pending_socket_goes_for_the_newest` |
//! | ClientHello 10 s, CONNECT 5 s | `client_hello_timeout`, `connect_timeout` | close | `handshake_timeouts` | `doors::silent_and_stuck_sockets_are_closed_in_time` |
//! | 64 MiB in all buffers | — `buffers` | 0x97, 0x03 to newcomers; publishes wait; absent sessions give way | `buffer_bytes`, `buffer_waits`, `dropped_buffers_full` | `../buffers.rs` |
//! | 500 handshakes/s | `handshakes_per_second` | they wait | `handshakes_paced` | `../listeners.rs`: `completed_handshakes_are_paced_and_all_get_in` |
//! | 64 handshakes compute | `handshakes` | they queue | | `doors::handshakes_take_turns_and_all_come_through` |
//!
//! The defaults are held to the contract by `sizes::the_defaults_are_those_of_the_contract`. `floods` holds what hostile
//! clients do with all of this at once.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::pedantic)]

#[path = "../support/mod.rs"]
mod support;

mod attached;
mod doors;
mod floods;
mod flow;
mod neighbour;
mod retained;
mod sizes;
