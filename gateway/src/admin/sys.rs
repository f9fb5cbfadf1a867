//! A few numbers on `$SYS/broker/…`, for programs that a policy lets read there: the names are mosquitto's, where it
//! has the number too. Not retained, QoS 0, every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use fieldgate_broker::QoS;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::overview::Overview;
use crate::southbound::gateway_message;

const EVERY: Duration = Duration::from_secs(10);

/// Publishes until `stop` is cancelled.
pub async fn run(overview: Arc<Overview>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for (topic, value) in figures(&overview) {
            let topic = format!("$SYS/broker/{topic}");
            let message =
                gateway_message(topic, value.into_bytes().into(), QoS::AtMostOnce, false, overview.clock.now());
            if let Err(error) = overview.broker.publish(message).await {
                tracing::warn!(%error, "$SYS can't be published");
            }
        }
    }
}

fn figures(overview: &Overview) -> [(&'static str, String); 7] {
    let metrics = overview.broker.metrics();
    [
        ("clients/connected", metrics.connections.to_string()),
        ("messages/received", metrics.messages_in.to_string()),
        ("messages/sent", metrics.messages_out.to_string()),
        ("subscriptions/count", metrics.subscriptions.to_string()),
        ("retained messages/count", metrics.retained_messages.to_string()),
        ("uptime", format!("{} seconds", overview.clock.now().since(overview.started).as_secs())),
        ("version", format!("fieldgate version {}", env!("CARGO_PKG_VERSION"))),
    ]
}
