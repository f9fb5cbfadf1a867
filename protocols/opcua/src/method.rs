//! The command `call`: a configured method, its arguments in the types that it declares.

use std::sync::Arc;

use fieldgate_protocol::{Outcome, Status, Value};
use opcua::client::UARequest;
use opcua::client::services::Call;
use opcua::types::custom::DataTypeTree;
use opcua::types::{
    Argument, BrowsePath, CallMethodRequest, NodeId, QualifiedName, ReferenceTypeId, RelativePath, RelativePathElement,
    StatusCode, TimestampsToReturn, Variant,
};
use serde_json::Value as Json;
use tokio::time::Instant;

use crate::command::refusal;
use crate::config::MethodConfig;
use crate::fault::{self, Fault};
use crate::server::{Server, read_id};
use crate::value::{Types, value};
use crate::write::{convert, is_structured};

/// Calls it; the server may take until `deadline`.
pub(crate) async fn call(
    server: &Server,
    method: &MethodConfig,
    given: &[Value],
    deadline: Instant,
) -> Result<Outcome, Fault> {
    let (node, object) = (server.resolve(&method.node).await?, server.resolve(&method.object).await?);
    let (Some(node), Some(object)) = (node, object) else {
        return Ok(Outcome::not(Status::Failed, "BadNodeIdUnknown: the server has no such method or object"));
    };
    let known = server.knowing(given.iter().any(is_structured)).await?;
    let arguments = match fit(&declared(server, &node).await?, given, known.known_types()) {
        Ok(arguments) => arguments,
        Err(reason) => return Ok(Outcome::not(Status::Rejected, reason)),
    };
    let request = CallMethodRequest { object_id: object, method_id: node, input_arguments: Some(arguments) };
    let refusals = [StatusCode::BadArgumentsMissing, StatusCode::BadTooManyArguments, StatusCode::BadNotExecutable];
    invoke(&known, request, &refusals, deadline).await
}

/// Calls, and says what came of it; the server may take until `deadline`. With one of `refusals` it says that it would not.
pub(crate) async fn invoke(
    server: &Server,
    request: CallMethodRequest,
    refusals: &[StatusCode],
    deadline: Instant,
) -> Result<Outcome, Fault> {
    // Methods take their time; the command's own is the limit.
    let left = deadline.saturating_duration_since(Instant::now());
    let session = server.session();
    let answer = Call::new(session).method(request).timeout(left).send(session.channel()).await;
    let answer = answer.map_err(|error| Fault::Status { step: "calling", status: error.status(), mend: None })?;
    let Some(result) = answer.results.into_iter().flatten().next() else {
        return Ok(Outcome::not(Status::Failed, "the server gave no result"));
    };
    let status = result.status_code;
    if status.is_bad() {
        let refused = status == StatusCode::BadInvalidArgument || refusals.contains(&status);
        let verdict = if refused { Status::Rejected } else { refusal(status) };
        return Ok(Outcome::not(verdict, format!("the server answered {}", fault::name(status))));
    }
    Ok(returned(result.output_arguments.unwrap_or_default(), server.types()))
}

/// What a method gives back: nothing, a value, or an array of several.
fn returned(outputs: Vec<Variant>, types: Types<'_>) -> Outcome {
    let json = |output| value(output, types).as_ref().and_then(Value::to_json);
    let count = outputs.len();
    let values: Vec<Option<Json>> = outputs.into_iter().map(json).collect();
    let formless = values.iter().filter(|value| value.is_none()).count();
    let reason = (formless > 0).then(|| format!("done; {formless} of {count} results have no form here"));
    let mut values: Vec<Json> = values.into_iter().map(Option::unwrap_or_default).collect();
    let value = match count {
        0 => None,
        1 => values.pop(),
        _ => Some(Json::Array(values)),
    };
    Outcome::ok(value).because(reason)
}

/// The arguments that a method declares; none where it has no such property.
async fn declared(server: &Server, method: &NodeId) -> Result<Vec<Argument>, Fault> {
    let element = RelativePathElement {
        reference_type_id: ReferenceTypeId::HasProperty.into(),
        is_inverse: false,
        include_subtypes: true,
        target_name: QualifiedName::new(0, "InputArguments"),
    };
    let relative_path = RelativePath { elements: Some(vec![element]) };
    let property = server.follow(vec![BrowsePath { starting_node: method.clone(), relative_path }]).await?;
    let Some(property) = property.into_iter().next().flatten() else { return Ok(Vec::new()) };
    let id = read_id(property, opcua::types::AttributeId::Value);
    let read = server.session().read(std::slice::from_ref(&id), TimestampsToReturn::Neither, 0.0);
    let read = server.session().ask("reading the method's arguments", read).await?;
    let Some(Variant::Array(array)) = read.into_iter().next().and_then(|data| data.value) else {
        return Ok(Vec::new());
    };
    let argument = |variant| match variant {
        Variant::ExtensionObject(object) => object.into_inner_as::<Argument>().map(|argument| *argument),
        _ => None,
    };
    Ok(array.values.into_iter().filter_map(argument).collect())
}

/// The given values in the declared types, or why they are not that.
fn fit(declared: &[Argument], given: &[Value], types: Option<&Arc<DataTypeTree>>) -> Result<Vec<Variant>, String> {
    if declared.len() != given.len() {
        let names: Vec<&str> = declared.iter().map(|argument| argument.name.as_ref()).collect();
        return Err(format!("the method takes {} arguments ({}), not {}", names.len(), names.join(", "), given.len()));
    }
    let one = |(argument, value): (&Argument, &Value)| {
        convert(value, &Variant::Empty, Some(&argument.data_type), argument.value_rank >= 0, types)
            .map_err(|unfit| format!("{}: {unfit}", argument.name))
    };
    declared.iter().zip(given).map(one).collect()
}

#[cfg(test)]
mod tests {
    use opcua::types::DataTypeId;
    use serde_json::json;

    use super::*;

    fn argument(name: &str, data_type: DataTypeId, value_rank: i32) -> Argument {
        Argument { name: name.into(), data_type: data_type.into(), value_rank, ..Argument::default() }
    }

    #[test]
    fn arguments_are_fitted_to_what_is_declared_or_refused_by_name() {
        let declared = [argument("speed", DataTypeId::Int16, -1), argument("steps", DataTypeId::Double, 1)];
        let steps = Value::Array(vec![Value::Int(1), Value::Float(2.5)]);
        let fitted = fit(&declared, &[Value::Float(7.0), steps.clone()], None).unwrap();
        assert_eq!((&fitted[0], &fitted[1]), (&Variant::Int16(7), &Variant::from(vec![1.0, 2.5])));
        assert!(
            fit(&declared, &[Value::Int(1)], None).unwrap_err().contains("takes 2 arguments (speed, steps), not 1")
        );
        assert!(
            fit(&declared, &[Value::Int(70_000), steps], None)
                .unwrap_err()
                .starts_with("speed: `70000` is out of range")
        );
    }

    #[test]
    fn one_result_stands_alone_and_several_in_an_array() {
        assert_eq!(returned(vec![], None), Outcome::ok(None));
        assert_eq!(returned(vec![Variant::from(1.5)], None).value, Some(json!(1.5)));
        let several = returned(vec![Variant::from(1_i32), Variant::from(NodeId::new(1, 1))], None);
        assert_eq!(several.value, Some(json!([1, null])));
        assert_eq!(several.reason.as_deref(), Some("done; 1 of 2 results have no form here"));
    }
}
