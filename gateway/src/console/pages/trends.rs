//! `/console/charts`: the figures that matter, over the last hour or the last day.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::Overview;
use crate::console::access::Visitor;
use crate::console::charts::{Chart, Charts, Figure, Span, draw};
use crate::console::live;
use crate::console::page::{link, live_page};

const HERE: &str = "/console/charts";
/// A figure is read every ten seconds.
const EVERY: Duration = Duration::from_secs(5);

/// How far back the charts of a page go.
#[derive(Debug, Default, Deserialize)]
pub struct Over {
    #[serde(default)]
    span: String,
}

impl Over {
    /// The last hour, unless the day is asked for.
    pub fn span(&self) -> Span {
        if self.span == "day" { Span::Day } else { Span::Hour }
    }

    /// Its word in addresses.
    pub fn word(&self) -> &'static str {
        match self.span() {
            Span::Hour => "",
            Span::Day => "day",
        }
    }
}

/// Leads from the one span to the other.
pub fn choice(here: &str, span: Span) -> Markup {
    let current = |of: Span| (of == span).then_some("true");
    html! {
        p class="choice" {
            a href=(here) aria-current=[current(Span::Hour)] { "Last hour" } " "
            a href=(link(here, &[("span", "day")])) aria-current=[current(Span::Day)] { "Last day" }
        }
    }
}

/// Charts of some figures.
pub fn charts(charts: &Charts, figures: &[Figure], span: Span) -> Markup {
    html! {
        div class="charts" {
            @for figure in figures {
                (Chart {
                    id: &format!("chart-{}", figure.word()),
                    title: figure.title(),
                    unit: figure.unit(),
                    times: draw::times(span),
                    values: &charts.figure(*figure, span),
                }.render())
            }
        }
    }
}

/// All of them.
pub async fn show(State(overview): State<Arc<Overview>>, visitor: Visitor, Query(over): Query<Over>) -> Response {
    let body = html! {
        (choice(HERE, over.span()))
        div id="charts" { (charts(&overview.charts, &Figure::ALL, over.span())) }
    };
    let stream = link("/console/charts/live", &[("span", over.word())]);
    live_page(&overview, &visitor, HERE, "Charts", &stream, &body)
}

/// All of them, live.
pub async fn live(State(overview): State<Arc<Overview>>, visitor: Visitor, Query(over): Query<Over>) -> Response {
    let of = Arc::clone(&overview);
    live::stream(&overview, &visitor, EVERY, move || {
        let charts = charts(&of.charts, &Figure::ALL, over.span());
        async move { vec![("charts".to_owned(), charts)] }
    })
}
