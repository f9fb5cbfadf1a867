//! The end of the chain, written down in state.db every few seconds and at the stop. A log that ends sooner was cut
//! off, and one whose line has another hash was rewritten.

use std::sync::Arc;

use fieldgate_store::{Delete, Put, State, StateError};
use thiserror::Error;

use super::End;

const TABLE: &str = "audit";
const END: &[u8] = b"end";

/// The end of the log can't be read or written down.
#[derive(Debug, Error)]
pub enum AnchorError {
    /// state.db says no.
    #[error("state.db can't be used")]
    State(#[from] StateError),
    /// The row can't be read.
    #[error("the row of the audit log's end in state.db is damaged")]
    Row(#[from] serde_json::Error),
}

/// The row.
pub(super) struct Anchor(pub(super) Arc<State>);

impl Anchor {
    pub(super) fn put(&self, end: End) -> Result<(), AnchorError> {
        let value = serde_json::to_vec(&end)?;
        Ok(self.0.commit(&[Put { table: TABLE, key: END.to_vec(), value }], &[])?)
    }
}

/// The end that was last written down.
pub fn anchored(state: &State) -> Result<Option<End>, AnchorError> {
    let row = state.get(TABLE, END)?;
    Ok(row.map(|row| serde_json::from_slice(&row)).transpose()?)
}

/// Forgets it: for who takes state.db to where its log is not, as a restore without the log does. The chain begins with
/// line 1 then, in the place of a line that says that all before it are missing.
pub fn forget_end(state: &State) -> Result<(), AnchorError> {
    Ok(state.commit(&[], &[Delete { table: TABLE, key: END.to_vec() }])?)
}
