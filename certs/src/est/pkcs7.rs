//! Certificates in a PKCS #7 envelope that signs nothing ("certs-only", RFC 5652, 5.1; RFC 7030, 4.1.3). All that EST
//! needs of CMS is this one shape, so it is written here.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
/// `[0]`, constructed.
const CONTEXT_0: u8 = 0xa0;
/// 1.2.840.113549.1.7.2, tag and length included.
const SIGNED_DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.7.1
const DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];

/// The envelope, DER, with these certificates (DER) in this order.
pub(super) fn certs_only<C: AsRef<[u8]>>(certificates: impl IntoIterator<Item = C>) -> Vec<u8> {
    let mut all = Vec::new();
    for certificate in certificates {
        all.extend_from_slice(certificate.as_ref());
    }
    let signed_data = [
        tlv(INTEGER, &[1]),
        // No digests, because there are no signers.
        tlv(SET, &[]),
        tlv(SEQUENCE, &DATA),
        tlv(CONTEXT_0, &all),
        tlv(SET, &[]),
    ];
    let content = tlv(CONTEXT_0, &tlv(SEQUENCE, &signed_data.concat()));
    tlv(SEQUENCE, &[&SIGNED_DATA[..], &content].concat())
}

/// Tag, length, content (X.690, 8.1.3).
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let bytes = length.get(zeros..).unwrap_or_default();
    match bytes {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        // At most eight of them.
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_can_be() {
        for (length, head) in [
            (0, vec![0x30, 0]),
            (127, vec![0x30, 127]),
            (128, vec![0x30, 0x81, 128]),
            (255, vec![0x30, 0x81, 255]),
            (256, vec![0x30, 0x82, 1, 0]),
            (65_536, vec![0x30, 0x83, 1, 0, 0]),
        ] {
            let written = tlv(SEQUENCE, &vec![7; length]);
            assert_eq!(written[..head.len()], head);
            assert_eq!(written.len(), head.len() + length);
        }
    }
}
