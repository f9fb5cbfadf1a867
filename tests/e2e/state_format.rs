//! state.db of another version: an older gateway says what to do and touches nothing.

use fieldgate_testkit::Gateway;

use crate::stage::{BINARY, Told};

/// Where SQLite keeps `user_version` in the file's header, big-endian.
const USER_VERSION: std::ops::Range<usize> = 60..64;

#[tokio::test]
async fn a_state_of_a_newer_version_is_refused_and_stays() -> Told {
    let mut gateway = Gateway::start_new(BINARY, "line-1", "").await?;
    gateway.add_device("press-1").await?;
    gateway.stop().await?;
    // A verb that ends puts all of the write-ahead log into the file.
    gateway.verb(&["device", "list"]).await?.ok()?;
    let path = gateway.data_dir().join("state.db");
    assert!(!gateway.data_dir().join("state.db-wal").exists());
    let own = std::fs::read(&path)?;
    let mut newer = own.clone();
    newer[USER_VERSION].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&path, &newer)?;
    let mut said = vec![gateway.start().await.unwrap_err().to_string()];
    for verb in [&["device", "list"][..], &["device", "add", "press-2"]] {
        let refused = gateway.verb(verb).await?;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        said.push(refused.stderr);
    }
    for said in said {
        for words in ["state.db", "format 99", "knows up to 1", "install the newer Fieldgate"] {
            assert!(said.contains(words), "{said}");
        }
    }
    assert_eq!(std::fs::read(&path)?, newer);
    std::fs::write(&path, &own)?;
    gateway.start().await?;
    assert!(gateway.verb(&["device", "list"]).await?.ok()?.contains("press-1"));
    Ok(())
}
