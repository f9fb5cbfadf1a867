//! Figures of the gateway's `/metrics`.

use anyhow::Context;
use fieldgate_testkit::Gateway;

/// All values of a metric, added up.
pub async fn total(gateway: &Gateway, metric: &str) -> anyhow::Result<f64> {
    let text = gateway.get("/metrics").await?.body;
    let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(metric));
    let numbers: Vec<f64> = values
        .map(|line| line.rsplit(' ').next().context("a line without a value")?.parse().context(line.to_owned()))
        .collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(!numbers.is_empty(), "no {metric} in /metrics");
    Ok(numbers.iter().sum())
}
