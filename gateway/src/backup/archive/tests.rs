//! Archives that are whole, and all sorts that are not.

use super::*;

fn archive(files: &[(&str, &str)]) -> Archive {
    let entries: Vec<Entry> = files
        .iter()
        .map(|(path, text)| Entry {
            path: (*path).to_owned(),
            mode: 0o600,
            content: Zeroizing::new(text.as_bytes().to_vec()),
        })
        .collect();
    let manifest = Manifest {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        gateway: DeviceId::new("line-1").unwrap(),
        taken: UnixMillis(1_800_000_000_000),
        boot: 3,
        configuration: "gateway.toml".to_owned(),
        data_dir: "data".to_owned(),
        files: entries.iter().map(Entry::listed).collect(),
    };
    Archive { manifest, entries }
}

fn plain() -> Archive {
    archive(&[("config/gateway.toml", "[gateway]\n"), ("data/state.db", &"x".repeat(100_000))])
}

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

/// An envelope around any tar.
fn envelope(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    build(&mut tar);
    let plain = tar.into_inner().unwrap();
    let mut recipient = scrypt::Recipient::new(SecretString::from("right".to_owned()));
    recipient.set_work_factor(2);
    let encryptor = Encryptor::with_recipients(iter::once(&recipient as &dyn age::Recipient)).unwrap();
    let mut writer = encryptor.wrap_output(Vec::new()).unwrap();
    writer.write_all(&plain).unwrap();
    writer.finish().unwrap()
}

fn with_manifest(archive: &Archive, tar: &mut tar::Builder<Vec<u8>>) {
    let text = serde_json::to_vec(&archive.manifest).unwrap();
    append(tar, MANIFEST, 0o600, UnixMillis(0), &text).unwrap();
}

fn words(sealed: &[u8]) -> String {
    open(sealed, &secret("right")).unwrap_err().to_string()
}

#[test]
fn what_goes_in_comes_out_with_the_right_passphrase_alone() {
    let (archive, long) = (plain(), format!("data/opcua/{}/a", "n".repeat(180)));
    let sealed = seal(&archive, &secret("right")).unwrap();
    assert_eq!(open(&sealed, &secret("right")).unwrap(), archive);
    assert!(matches!(open(&sealed, &secret("wrong")).unwrap_err(), ArchiveError::Passphrase));
    assert!(!sealed.windows(9).any(|part| part == b"[gateway]"));
    let archive = self::archive(&[(&long, "a long name")]);
    assert_eq!(open(&seal(&archive, &secret("right")).unwrap(), &secret("right")).unwrap(), archive);
}

#[test]
fn no_flipped_bit_and_no_cut_goes_unnoticed() {
    let archive = archive(&[("config/gateway.toml", "[gateway]\n")]);
    let sealed = envelope(|tar| {
        with_manifest(&archive, tar);
        append(tar, "config/gateway.toml", 0o600, UnixMillis(0), b"[gateway]\n").unwrap();
    });
    assert_eq!(open(&sealed, &secret("right")).unwrap(), archive);
    // Each try measures how fast the machine is: the header whole, the rest here and there.
    for at in (0..200).chain((200..sealed.len()).step_by(61)) {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1;
        assert!(open(&flipped, &secret("right")).is_err(), "byte {at}");
    }
    for length in (0..200).step_by(7).chain((200..sealed.len()).step_by(61)) {
        assert!(open(&sealed[..length], &secret("right")).is_err(), "cut to {length}");
    }
}

#[test]
fn other_files_are_said_to_be_no_backup() {
    for other in [&b""[..], b"hello", b"age-encryption.org/v1\n", &[0; 4096]] {
        let error = open(other, &secret("right")).unwrap_err();
        assert!(matches!(error, ArchiveError::NotABackup | ArchiveError::Damaged(_)), "{error}");
    }
}

#[test]
fn entries_that_lead_elsewhere_are_refused() {
    for path in ["../out", "data/../../out", "/etc/passwd", "data//x", "./data/x"] {
        let sealed = envelope(|tar| {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o600);
            header.set_size(1);
            header.set_cksum();
            tar.append(&header, &b"x"[..]).unwrap();
        });
        let words = words(&sealed);
        assert!(words.contains(path) && words.contains("leads out"), "{words}");
    }
}

#[test]
fn links_folders_and_devices_are_refused() {
    use tar::EntryType;
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Char, EntryType::Fifo] {
        let sealed = envelope(|tar| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o777);
            header.set_size(0);
            header.set_path("data/x").unwrap();
            header.set_link_name("/etc").unwrap();
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
        });
        assert!(words(&sealed).contains("no plain file"), "{kind:?}: {}", words(&sealed));
    }
}

#[test]
fn what_the_manifest_does_not_say_is_refused() {
    let two = archive(&[("data/a", "1"), ("data/b", "2")]);
    let append = |tar: &mut tar::Builder<Vec<u8>>, path: &str, text: &str| {
        super::append(tar, path, 0o600, UnixMillis(0), text.as_bytes()).unwrap();
    };
    let cases: [(&str, &[(&str, &str)]); 4] = [
        ("missing", &[("data/a", "1")]),
        ("not as", &[("data/a", "1"), ("data/b", "3")]),
        ("not in", &[("data/a", "1"), ("data/b", "2"), ("data/c", "3")]),
        ("comes twice", &[("data/a", "1"), ("data/b", "2"), ("data/b", "2")]),
    ];
    for (expected, files) in cases {
        let sealed = envelope(|tar| {
            with_manifest(&two, tar);
            for (path, text) in files {
                append(tar, path, text);
            }
        });
        assert!(words(&sealed).contains(expected), "{}", words(&sealed));
    }
    assert!(words(&envelope(|tar| append(tar, "data/a", "1"))).contains("begins with `data/a`"));
    assert!(words(&envelope(|_| {})).contains("nothing is in it"));
}

#[test]
fn a_newer_format_is_named_with_the_version_that_made_it() {
    let mut newer = serde_json::to_value(plain().manifest).unwrap();
    newer["format"] = 9.into();
    newer["version"] = "4.2.0".into();
    newer["files"] = "of another shape".into();
    let text = serde_json::to_vec(&newer).unwrap();
    let words = words(&envelope(|tar| append(tar, MANIFEST, 0o600, UnixMillis(0), &text).unwrap()));
    assert!(words.contains("format 9") && words.contains("Fieldgate 4.2.0"), "{words}");
}
