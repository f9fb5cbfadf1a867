//! Acknowledging an alarm: the method `acknowledge` of a device whose `[[opcua.device.event]]` allows it.

use std::str::FromStr;

use fieldgate_protocol::{Outcome, Status, Value};
use opcua::types::{ByteString, CallMethodRequest, LocalizedText, MethodId, StatusCode, Variant};
use tokio::time::Instant;

use crate::fault::Fault;
use crate::method::invoke;
use crate::node::NodeName;
use crate::server::Server;

/// What commands call it.
pub(crate) const NAME: &str = "acknowledge";

/// Acknowledges what `given` names: the `ConditionId` and the `EventId` that an event told, and perhaps a comment.
pub(crate) async fn acknowledge(server: &Server, given: &[Value], deadline: Instant) -> Result<Outcome, Fault> {
    let (condition, arguments) = match read(given) {
        Ok(read) => read,
        Err(reason) => return Ok(Outcome::not(Status::Rejected, reason)),
    };
    let Some(object_id) = server.resolve(&condition).await? else {
        return Ok(Outcome::not(Status::Rejected, format!("BadNodeIdUnknown: the server has no `{condition}`")));
    };
    let method_id = MethodId::AcknowledgeableConditionType_Acknowledge.into();
    let request = CallMethodRequest { object_id, method_id, input_arguments: Some(arguments) };
    let refusals = [
        StatusCode::BadNodeIdUnknown,
        StatusCode::BadNodeIdInvalid,
        StatusCode::BadMethodInvalid,
        StatusCode::BadEventIdUnknown,
        StatusCode::BadConditionBranchAlreadyAcked,
    ];
    invoke(server, request, &refusals, deadline).await
}

fn read(given: &[Value]) -> Result<(NodeName, Vec<Variant>), String> {
    let (condition, event, comment) = match given {
        [Value::Text(condition), Value::Text(event)] => (condition, event, ""),
        [Value::Text(condition), Value::Text(event), Value::Text(comment)] => (condition, event, comment.as_str()),
        _ => {
            return Err(
                "the arguments are the ConditionId and the EventId of an event, and perhaps a comment".to_owned()
            );
        }
    };
    let condition = NodeName::from_str(condition).map_err(|wrong| wrong.to_string())?;
    let event =
        ByteString::from_base64(event).ok_or_else(|| "the EventId is expected in Base64, as it was told".to_owned())?;
    Ok((condition, vec![Variant::from(event), Variant::from(LocalizedText::new("", comment))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_an_event_told_and_nothing_else() {
        let text = |text: &str| Value::Text(text.to_owned());
        let (condition, arguments) = read(&[text("ns=1;i=5"), text("AQID"), text("seen")]).unwrap();
        assert_eq!(condition, "ns=1;i=5".parse().unwrap());
        assert_eq!(arguments[0], Variant::from(ByteString::from(vec![1, 2, 3])));
        assert_eq!(read(&[text("ns=1;i=5"), text("AQID")]).unwrap().1.len(), 2);
        for wrong in [vec![], vec![text("ns=1;i=5")], vec![text("x"), text("AQID")], vec![text("i=5"), text("*")]] {
            assert!(read(&wrong).is_err(), "{wrong:?}");
        }
    }
}
