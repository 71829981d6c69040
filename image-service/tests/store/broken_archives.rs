//! Archives that are cut, changed or not archives at all.

use crisp_image_service::DiffId;
use crisp_image_service::store::IngestError;

use crate::archive::{Archive, gzip, header, item, zstd};
use crate::fixture::{Fixture, diff_of};
use crate::tree;

#[test]
fn damaged_archives_are_errors() {
    let fixture = Fixture::new();
    let archive = || Archive::new().dir("d").file("d/f", vec![7; 5000]);
    let whole = archive().tar();
    for cut in [1, 511, 513, 700, 1024, 1025, 3000, 6100] {
        let part = &whole[..cut];
        let error = fixture.store.ingest_layer(&diff_of(part), part);
        match cut {
            // Between entries: a complete archive by itself, caught by the diff id of the real one.
            512 => unreachable!(),
            // The header of the file is whole, its content is not there.
            _ => {
                let error = error.unwrap_err().to_string();
                assert!(error.contains("truncated"), "{cut}: {error}");
            }
        }
    }
    for (archive, part) in [
        (Archive::new().raw(&[7; 512]), "checksum"),
        (Archive::new().raw(b"<html>not found</html>").raw(&[b' '; 600]), "is this a tar archive"),
        (archive().raw(&[0; 512]).file("late", ""), "single zero block"),
        (Archive::new().extension(b'L', b"name without an entry\0"), "truncated"),
        (Archive::new().extension(b'x', b"no length"), "extended header is malformed"),
        (Archive::new().add(&item(b'0', "s").pax("GNU.sparse.major", "1")), "sparse"),
        (Archive::new().add(&item(b'S', "s")), "sparse"),
        (Archive::new().add(&item(b'M', "m")), "type 'M' are not supported"),
        (Archive::new().add(&item(b'0', "")), "the name is empty"),
        (Archive::new().add(&item(b'0', "p").pax("path", "a\0b")), "zero byte"),
        (Archive::new().add(&item(b'0', "u").pax("uid", "4294967295")), "user id"),
        (Archive::new().add(&item(b'0', "u").pax("size", "99999999999999999999")), "size"),
        (Archive::new().add(&item(b'3', "c").device(4096, 0)), "device number"),
        (Archive::new().add(&item(b'4', "b").device(0, 1 << 20)), "device number"),
        (Archive::new().add(&item(b'0', ".")), "only a directory can be the root"),
        (Archive::new().add(&item(b'2', "./").link("/etc")), "only a directory can be the root"),
        (Archive::new().add(&item(b'0', "u").pax("size", "9999999999")), "truncated"),
    ] {
        let error = fixture.refusal(archive);
        assert!(error.contains(part), "expected {part:?} in: {error}");
    }
    let mut bad_number = header(&item(b'0', "n"));
    bad_number[124..136].copy_from_slice(b"12x45678901 ");
    bad_number[148..156].copy_from_slice(b"        ");
    let sum: u32 = bad_number.iter().map(|b| u32::from(*b)).sum();
    bad_number[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = fixture.refusal(Archive::new().raw(&bad_number));
    assert!(error.contains("size is not a number"), "{error}");
}

#[test]
fn an_archive_without_its_end_blocks_is_whole_when_its_digest_is() {
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", "x").unfinished();
    let diff = diff_of(&tar);
    fixture.store.ingest_layer(&diff, &tar[..]).unwrap();
    assert_eq!(tree::names(&fixture.layer(&diff)), ["f a"]);
}

#[test]
fn what_follows_the_end_is_hashed_and_not_unpacked() {
    let fixture = Fixture::new();
    let mut tar = Archive::new().file("a", "x").tar();
    tar.extend_from_slice(&[0; 10240]);
    tar.extend_from_slice(&Archive::new().file("b", "hidden").tar());
    tar.extend_from_slice(&vec![b'!'; 700_000]);
    let diff = diff_of(&tar);
    fixture.store.ingest_layer(&diff, &gzip(&tar)[..]).unwrap();
    assert_eq!(tree::names(&fixture.layer(&diff)), ["f a"]);
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", "x").tar();
    let expected = DiffId::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let error = fixture.store.ingest_layer(&expected, &gzip(&tar)[..]).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, IngestError::DiffId { .. }), "{text}");
    assert!(text.contains(expected.as_str()) && text.contains(diff_of(&tar).as_str()), "{text}");
    assert!(!fixture.store.has_layer(&expected));
    fixture.assert_no_leftovers();
}

#[test]
fn damaged_compression_is_told_from_a_damaged_archive() {
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", vec![b'x'; 300_000]).file("b", "y").tar();
    let diff = diff_of(&tar);
    for (compression, compressed) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar))] {
        let mut flipped = compressed.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x55;
        let cut = &compressed[..compressed.len() - 5];
        for (what, bytes) in [("flipped", &flipped[..]), ("cut", cut)] {
            let error = fixture.store.ingest_layer(&diff, bytes).unwrap_err();
            // zstd has no checksum of its own by default: what it makes of a changed bit may be wrong.
            let undetected = compression == "zstd" && what == "flipped";
            let archive = matches!(error, IngestError::Archive { .. } | IngestError::DiffId { .. });
            let damaged = matches!(error, IngestError::Decompress { .. }) || (undetected && archive);
            assert!(damaged, "{compression} {what}: {error}");
            fixture.assert_no_leftovers();
        }
    }
    let garbage = [&gzip(&tar)[..], b"garbage"].concat();
    let error = fixture.store.ingest_layer(&diff, &garbage[..]).unwrap_err();
    assert!(matches!(error, IngestError::Decompress { .. }), "{error}");
    let error = fixture.store.ingest_layer(&diff, &b"no such thing"[..]).unwrap_err();
    assert!(matches!(error, IngestError::Archive { .. }), "{error}");
    assert!(!fixture.store.has_layer(&diff));
}

#[test]
fn a_failing_reader_is_reported_with_its_own_words() {
    struct Failing<'a>(&'a [u8]);
    impl std::io::Read for Failing<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Err(std::io::Error::other("the blob's digest is wrong"));
            }
            self.0.read(into)
        }
    }
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", "x").tar();
    for (compression, bytes) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar)), ("none", tar.clone())] {
        // At the very end, and in the middle.
        for bytes in [&bytes[..], &bytes[..20]] {
            let error = fixture.store.ingest_layer(&diff_of(&tar), Failing(bytes)).unwrap_err();
            assert!(matches!(error, IngestError::Source { .. }), "{compression}: {error}");
            assert!(error.to_string().ends_with("the blob's digest is wrong"), "{error}");
            fixture.assert_no_leftovers();
        }
    }
}
