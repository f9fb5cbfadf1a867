//! Commands: `write` with its read-back, and `read`; `call` is in `method`.
//!
//! A write reads the node first, for the data type that the server wants; it then writes the value attribute alone,
//! without status and times, which many servers refuse. The outcome's value is what was read afterwards. For a structure
//! the definitions of the server's types are read, once.

use fieldgate_protocol::{Command, Outcome, PointName, Sample, Status, Value};
use fieldgate_types::UnixMillis;
use opcua::types::{AttributeId, DataValue, NodeId, ReadValueId, StatusCode, TimestampsToReturn, Variant, WriteValue};
use serde_json::{Map, Value as Json};

use crate::config::MethodConfig;
use crate::event;
use crate::fault::{self, Fault};
use crate::method::call;
use crate::server::{Server, read_id, read_values};
use crate::value;
use crate::write::{convert, is_structured};

/// A point that a command is about, and its node where the server has one.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) point: PointName,
    pub(crate) node: Option<NodeId>,
}

/// A command with the nodes that it is about.
#[derive(Debug)]
pub(crate) enum Work {
    Write(Target, Value),
    Read(Vec<Target>),
    /// `None`: there is no such method.
    Call(Option<MethodConfig>, Vec<Value>),
    Acknowledge(Vec<Value>),
}

/// Executes a command and answers it, before its deadline. Whether the server did its part.
pub(crate) async fn execute(server: Server, work: Work, command: Command) -> bool {
    let late = || Outcome::not(Status::Timeout, "no answer from the server before the command's time was over");
    let deadline = tokio::time::Instant::from_std(command.deadline);
    let server = &server;
    let work = async {
        match &work {
            Work::Write(target, value) => write(server, target, value).await,
            Work::Read(targets) => read(server, targets).await,
            Work::Call(Some(method), arguments) => {
                call(server, method, arguments, deadline).await.unwrap_or_else(|fault| failed(&fault))
            }
            Work::Acknowledge(arguments) => {
                event::acknowledge(server, arguments, deadline).await.unwrap_or_else(|fault| failed(&fault))
            }
            Work::Call(None, _) => Outcome::not(Status::Rejected, "there is no such method"),
        }
    };
    let outcome = if tokio::time::Instant::now() >= deadline {
        // Not to be begun any more.
        late()
    } else {
        tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| late())
    };
    let done = matches!(outcome.status, Status::Ok | Status::Rejected);
    // Whoever asked may have gone.
    drop(command.reply.send(outcome));
    done
}

fn failed(fault: &Fault) -> Outcome {
    match fault {
        Fault::Silent { .. } => Outcome::not(Status::Timeout, fault.to_string()),
        _ => Outcome::not(Status::Failed, fault.to_string()),
    }
}

async fn read(server: &Server, targets: &[Target]) -> Outcome {
    let nodes: Vec<NodeId> = targets.iter().filter_map(|target| target.node.clone()).collect();
    let values = match read_values(server.session(), &nodes, server.chunk).await {
        Ok(values) => values,
        Err(fault) => return failed(&fault),
    };
    let mut values = values.into_iter();
    let mut object = Map::new();
    let mut reasons = Vec::new();
    for target in targets {
        let data = match target.node {
            Some(_) => values.next().unwrap_or_default(),
            None => DataValue { status: Some(StatusCode::BadNodeIdUnknown), ..DataValue::default() },
        };
        let sample = sample(server, target, data);
        let json = sample.value.as_ref().and_then(Value::to_json);
        if json.is_none() {
            reasons.push(format!("{}: {}", target.point, sample.quality));
        }
        object.insert(target.point.as_str().to_owned(), json.unwrap_or(Json::Null));
    }
    let reason = (!reasons.is_empty()).then(|| reasons.join(", "));
    Outcome::ok(Some(Json::Object(object))).because(reason)
}

/// A reading whose times don't matter.
fn sample(server: &Server, target: &Target, data: DataValue) -> Sample {
    value::sample(&target.point, data, UnixMillis::default(), server.types())
}

async fn write(server: &Server, target: &Target, wanted: &Value) -> Outcome {
    let Some(node) = &target.node else {
        return Outcome::not(Status::Failed, "BadNodeIdUnknown: the server has no such namespace");
    };
    match try_write(server, target, node, wanted).await {
        Ok(outcome) => outcome,
        Err(fault) => failed(&fault),
    }
}

async fn try_write(server: &Server, target: &Target, node: &NodeId, wanted: &Value) -> Result<Outcome, Fault> {
    let server = &server.knowing(is_structured(wanted)).await?;
    let session = server.session();
    let attributes = [AttributeId::Value, AttributeId::DataType, AttributeId::ValueRank];
    let ids: Vec<ReadValueId> = attributes.map(|attribute| read_id(node.clone(), attribute)).into();
    let read = session.ask("reading the node's type", session.read(&ids, TimestampsToReturn::Neither, 0.0)).await?;
    let mut read = read.into_iter();
    let mut next = || read.next().unwrap_or_default();
    let (current, data_type, rank) = (next(), next(), next());
    let current_status = current.status();
    if fault::gone(current_status) {
        return Ok(Outcome::not(Status::Failed, fault::name(current_status)));
    }
    // A node that may be written but not read has a declared type all the same.
    let data_type = match data_type.value {
        Some(Variant::NodeId(id)) => Some(*id),
        _ => None,
    };
    let is_array = matches!(rank.value, Some(Variant::Int32(rank)) if rank >= 0);
    let (current, types) = (current.value.unwrap_or_default(), server.known_types());
    let variant = match convert(wanted, &current, data_type.as_ref(), is_array, types) {
        Ok(variant) => variant,
        Err(unfit) => return Ok(Outcome::not(Status::Rejected, unfit.to_string())),
    };

    let request = WriteValue {
        node_id: node.clone(),
        attribute_id: AttributeId::Value as u32,
        index_range: opcua::types::NumericRange::None,
        value: DataValue { value: Some(variant), ..DataValue::default() },
    };
    let written = session.ask("writing", session.write(std::slice::from_ref(&request))).await?;
    let status = written.first().copied().unwrap_or(StatusCode::BadUnexpectedError);
    if status.is_bad() {
        return Ok(Outcome::not(refusal(status), format!("the server answered {}", fault::name(status))));
    }

    let back = read_values(session, std::slice::from_ref(node), 1).await?;
    let back = sample(server, target, back.into_iter().next().unwrap_or_default());
    Ok(match back.value.as_ref().and_then(Value::to_json) {
        Some(value) => Outcome::ok(Some(value)),
        // Done is done: some nodes can be written and not read.
        None if ["BadNotReadable", "BadUserAccessDenied"].contains(&back.quality.as_str()) => {
            Outcome::ok(None).because(Some(format!("written, but it can't be read back: {}", back.quality)))
        }
        None => Outcome::not(Status::Failed, format!("written, but reading it back gave {}", back.quality)),
    })
}

/// Whether the server would not (nothing was changed) or could not.
pub(crate) fn refusal(status: StatusCode) -> Status {
    let refused = [
        StatusCode::BadNotWritable,
        StatusCode::BadUserAccessDenied,
        StatusCode::BadTypeMismatch,
        StatusCode::BadOutOfRange,
        StatusCode::BadWriteNotSupported,
        StatusCode::BadAttributeIdInvalid,
    ];
    if refused.contains(&status) { Status::Rejected } else { Status::Failed }
}
