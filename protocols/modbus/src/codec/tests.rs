//! Known registers, misfits, and round trips in every order.

use proptest::prelude::*;

use super::*;

fn plain(kind: Kind, order: Order) -> Codec {
    Codec::new(kind, order, 1.0, 0.0)
}

/// Bytes as devices and other implementations send them: 123.456 and -1.5 as IEEE 754, 0x12345678, and so on.
#[test]
fn decodes_and_encodes_known_registers() {
    use Kind::{F32, F64, I16, I32, I64, U16, U32, U64};
    use Order::{Abcd, Badc, Cdab, Dcba};
    let pi = Value::Float(std::f64::consts::PI);
    let cases: &[(Kind, Order, &[u16], Value)] = &[
        (I16, Abcd, &[0xFFFE], Value::Int(-2)),
        (U16, Abcd, &[0xFFFE], Value::Uint(65_534)),
        (U16, Cdab, &[0x1234], Value::Uint(0x1234)),
        (U16, Badc, &[0x3412], Value::Uint(0x1234)),
        (U16, Dcba, &[0x3412], Value::Uint(0x1234)),
        (U32, Abcd, &[0x1234, 0x5678], Value::Uint(0x1234_5678)),
        (U32, Cdab, &[0x5678, 0x1234], Value::Uint(0x1234_5678)),
        (U32, Badc, &[0x3412, 0x7856], Value::Uint(0x1234_5678)),
        (U32, Dcba, &[0x7856, 0x3412], Value::Uint(0x1234_5678)),
        (I32, Abcd, &[0xFFFF, 0xFFFE], Value::Int(-2)),
        (F32, Abcd, &[0xBFC0, 0x0000], Value::Float(-1.5)),
        (F32, Cdab, &[0xE979, 0x42F6], Value::Float(123.456)),
        (F32, Dcba, &[0x79E9, 0xF642], Value::Float(123.456)),
        (F64, Abcd, &[0x4009, 0x21FB, 0x5444, 0x2D18], pi.clone()),
        (F64, Cdab, &[0x2D18, 0x5444, 0x21FB, 0x4009], pi.clone()),
        (F64, Badc, &[0x0940, 0xFB21, 0x4454, 0x182D], pi.clone()),
        (F64, Dcba, &[0x182D, 0x4454, 0xFB21, 0x0940], pi),
        (U64, Abcd, &[0x0102, 0x0304, 0x0506, 0x0708], Value::Uint(0x0102_0304_0506_0708)),
        (I64, Cdab, &[0xFFFE, 0xFFFF, 0xFFFF, 0xFFFF], Value::Int(-2)),
    ];
    for (kind, order, words, value) in cases {
        assert_eq!(plain(*kind, *order).decode(words).as_ref(), Ok(value), "{kind:?} {order:?}");
        assert_eq!(plain(*kind, *order).encode(value).as_deref(), Ok(*words), "{kind:?} {order:?}");
    }
}

/// The same cases that the independent peers are asked for.
#[test]
fn agrees_with_the_registers_of_the_fixtures_both_ways() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/modbus/types.json");
    let cases: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() >= 60, "{}", cases.len());
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap();
        let kind = match text("type").strip_prefix("string:") {
            Some(length) => Kind::Text(length.parse().unwrap()),
            None => Kind::WORDS.into_iter().find(|(word, _)| *word == text("type")).unwrap().1,
        };
        let order = Order::WORDS.into_iter().find(|(word, _)| *word == text("order")).unwrap().1;
        let words = case["words"].as_array().unwrap().iter();
        let words: Vec<u16> = words.map(|word| u16::from_str_radix(word.as_str().unwrap(), 16).unwrap()).collect();
        let codec = plain(kind, order);
        let value = codec.decode(&words).unwrap();
        assert_eq!(value.to_json().unwrap(), case["value"], "{case}");
        let given = Value::from_json(&case["value"]).unwrap();
        assert_eq!(codec.encode(&given), Ok(words), "{case}");
    }
}

#[test]
fn scales_without_decimal_dust() {
    let tenth = Codec::new(Kind::I16, Order::Abcd, 0.1, 0.0);
    assert_eq!(tenth.decode(&[3]), Ok(Value::Float(0.3)));
    assert_eq!(tenth.encode(&Value::Float(21.3)), Ok(vec![213]));
    assert_eq!(tenth.encode(&Value::Float(-0.26)), Ok(vec![0xFFFD]));
    let celsius = Codec::new(Kind::U16, Order::Abcd, 0.5, -40.0);
    assert_eq!(celsius.decode(&[100]), Ok(Value::Float(10.0)));
    assert_eq!(celsius.encode(&Value::Int(10)), Ok(vec![100]));
    assert_eq!(celsius.encode(&Value::Int(-41)), Err(Misfit::Range { kind: Kind::U16, low: -40.0, high: 32_727.5 }));
}

#[test]
fn odd_floats_pass_down_and_are_refused_up() {
    let Ok(Value::Float(nan)) = plain(Kind::F32, Order::Abcd).decode(&[0x7FC0, 0]) else { panic!() };
    assert!(nan.is_nan());
    assert!(plain(Kind::F64, Order::Abcd).encode(&Value::Float(f64::NAN)).is_err());
    assert!(plain(Kind::F32, Order::Abcd).encode(&Value::Float(1e39)).is_err());
}

#[test]
fn refuses_what_does_not_fit() {
    let u16 = plain(Kind::U16, Order::Abcd);
    assert!(matches!(u16.encode(&Value::Int(-1)), Err(Misfit::Range { .. })));
    assert!(matches!(u16.encode(&Value::Uint(65_536)), Err(Misfit::Range { .. })));
    assert!(matches!(u16.encode(&Value::Float(1.5)), Err(Misfit::Fraction { .. })));
    assert_eq!(u16.encode(&Value::Float(42.0)), Ok(vec![42]));
    assert!(matches!(u16.encode(&Value::Bool(true)), Err(Misfit::WrongType { .. })));
    assert!(matches!(u16.encode(&Value::Text("x".into())), Err(Misfit::WrongType { .. })));
    assert!(plain(Kind::Bool, Order::Abcd).encode(&Value::Int(2)).is_err());
    let big = plain(Kind::U64, Order::Abcd).encode(&Value::Text(u64::MAX.to_string()));
    assert_eq!(big, Ok(vec![0xFFFF; 4]));
    assert_eq!(plain(Kind::U16, Order::Abcd).decode(&[1, 2]), Err(Quality::BAD_DECODING_ERROR));
}

#[test]
fn reads_digits_of_four_bits() {
    let bcd = plain(Kind::Bcd32, Order::Cdab);
    assert_eq!(bcd.decode(&[0x5678, 0x1234]), Ok(Value::Uint(12_345_678)));
    assert_eq!(bcd.encode(&Value::Int(12_345_678)), Ok(vec![0x5678, 0x1234]));
    assert_eq!(bcd.decode(&[0x567A, 0x1234]), Err(Quality::BAD_DECODING_ERROR));
    assert!(matches!(bcd.encode(&Value::Int(100_000_000)), Err(Misfit::Range { .. })));
    let tenth = Codec::new(Kind::Bcd16, Order::Abcd, 0.1, 0.0);
    assert_eq!(tenth.decode(&[0x0987]), Ok(Value::Float(98.7)));
    assert_eq!(tenth.encode(&Value::Float(98.7)), Ok(vec![0x0987]));
    assert!(matches!(tenth.encode(&Value::Float(1_000.0)), Err(Misfit::Range { .. })));
}

#[test]
fn reads_texts_in_both_orders() {
    let text = plain(Kind::Text(5), Order::Abcd);
    assert_eq!(text.decode(&[0x4142, 0x4300, 0x5858]), Ok(Value::Text("ABC".into())));
    assert_eq!(
        text.decode(&[0x4142, 0x4344, 0x4558]),
        Ok(Value::Text("ABCDE".into())),
        "the sixth byte is not its own"
    );
    assert_eq!(text.decode(&[0x4142, 0x2020, 0x2000]), Ok(Value::Text("AB".into())));
    assert_eq!(text.decode(&[0xFFFF, 0, 0]), Err(Quality::BAD_DECODING_ERROR));
    assert_eq!(text.encode(&Value::Text("AB".into())), Ok(vec![0x4142, 0, 0]));
    assert_eq!(text.encode(&Value::Text("ABCDEF".into())), Err(Misfit::Long { got: 6, room: 5 }));
    assert_eq!(text.encode(&Value::Int(1)), Err(Misfit::WrongType { expected: "text" }));
    let swapped = plain(Kind::Text(4), Order::Badc);
    assert_eq!(swapped.decode(&[0x4241, 0x4443]), Ok(Value::Text("ABCD".into())));
    assert_eq!(swapped.encode(&Value::Text("ABCD".into())), Ok(vec![0x4241, 0x4443]));
}

#[test]
fn takes_configured_numbers_for_no_value() {
    let none = Err(Quality::named("BadSensorFailure"));
    let i16 = Codec::new(Kind::I16, Order::Abcd, 0.1, 0.0).with_invalid(vec![32_768.0, 32_767.0]);
    assert_eq!(i16.decode(&[0x8000]), none);
    assert_eq!(i16.decode(&[0x7FFF]), none);
    assert_eq!(i16.decode(&[0x7FFE]), Ok(Value::Float(3276.6)));
    let f32 = plain(Kind::F32, Order::Cdab).with_invalid(vec![-9_999.0]);
    assert_eq!(f32.decode(&f32.encode(&Value::Int(-9_999)).unwrap()), none);
    assert!(f32.decode(&[0, 0x4780]).is_ok());
    let u64 = plain(Kind::U64, Order::Abcd).with_invalid(vec![18_446_744_073_709_551_615.0]);
    assert_eq!(u64.decode(&[0xFFFF; 4]), none);
}

#[test]
fn names_numbers_both_ways() {
    let names = BTreeMap::from([(0, "off".to_owned()), (1, "on".to_owned())]);
    for kind in [Kind::U16, Kind::I16, Kind::Bool, Kind::Bit(0)] {
        let codec = plain(kind, Order::Abcd).with_texts(names.clone());
        assert_eq!(codec.decode(&[1]), Ok(Value::Text("on".into())), "{kind:?}");
        assert_eq!(codec.encode(&Value::Text("on".into())), Ok(vec![1]), "{kind:?}");
        assert_eq!(codec.encode(&Value::Text("off".into())), Ok(vec![0]), "{kind:?}");
        assert!(codec.encode(&Value::Text("of".into())).is_err(), "{kind:?}");
    }
    let codec = plain(Kind::U16, Order::Abcd).with_texts(names);
    assert_eq!(codec.decode(&[7]), Ok(Value::Uint(7)), "a number without a name stays a number");
    assert_eq!(codec.encode(&Value::Int(7)), Ok(vec![7]));
}

#[test]
fn reads_and_writes_one_bit() {
    let bit = plain(Kind::Bit(3), Order::Abcd);
    assert_eq!((bit.decode(&[0x0008]), bit.decode(&[0xFFF7])), (Ok(Value::Bool(true)), Ok(Value::Bool(false))));
    assert_eq!(bit.encode(&Value::Bool(true)), Ok(vec![8]));
    assert_eq!(plain(Kind::Bit(15), Order::Abcd).decode(&[0x8000]), Ok(Value::Bool(true)));
}

proptest! {
    #[test]
    fn a_text_comes_back(text in "[a-zA-Z0-9äß€]{0,40}", swap in any::<bool>()) {
        let order = if swap { Order::Badc } else { Order::Abcd };
        let codec = plain(Kind::Text(120), order);
        let words = codec.encode(&Value::Text(text.clone())).unwrap();
        prop_assert_eq!(words.len(), 60);
        prop_assert_eq!(codec.decode(&words), Ok(Value::Text(text)));
    }

    #[test]
    fn what_is_decoded_encodes_to_the_same_registers(words in prop::array::uniform4(any::<u16>()), order in 0..4_usize, kind in 1..11_usize) {
        let codec = plain(Kind::WORDS[kind].1, Order::WORDS[order].1);
        let words = &words[..codec.kind().width().into()];
        let digits = matches!(codec.kind(), Kind::Bcd16 | Kind::Bcd32);
        let Ok(value) = codec.decode(words) else {
            let over = words.iter().any(|word| (0..4).any(|place| word >> (4 * place) & 0xF > 9));
            prop_assert!(digits && over);
            return Ok(());
        };
        let finite = value.as_f64().is_some_and(f64::is_finite);
        match codec.encode(&value) {
            Ok(back) => prop_assert_eq!(back, words),
            Err(error) => prop_assert!(!finite, "{}", error),
        }
    }

    #[test]
    fn a_scaled_integer_comes_back(raw in any::<i32>(), scale in prop::sample::select(vec![0.001, 0.1, 0.25, 3.0, -0.5, 1000.0]), offset in -1000.0..1000.0_f64) {
        let codec = Codec::new(Kind::I32, Order::Cdab, scale, offset);
        let words = plain(Kind::I32, Order::Cdab).encode(&Value::Int(raw.into())).unwrap();
        let value = codec.decode(&words).unwrap();
        prop_assert_eq!(codec.encode(&value), Ok(words));
    }
}
