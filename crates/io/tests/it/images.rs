//! Labelled images.

use std::path::PathBuf;

use trimtab_io::{Dtype, Error, ImageSet, RawTensor};

use super::file;

fn images(shape: &[usize], labels: &[i8]) -> (tempfile::TempDir, PathBuf) {
    let pixels: Vec<u8> = (0..shape.iter().product::<usize>()).map(|i| i as u8).collect();
    let labels: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
    let bytes = file(&[
        ("test.images", RawTensor::new(Dtype::U8, shape.to_vec(), pixels.into()).unwrap()),
        ("test.labels", RawTensor::new(Dtype::I8, vec![labels.len()], labels.into()).unwrap()),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.safetensors");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn pixels_and_labels_stay_together() {
    let (_dir, path) = images(&[3, 1, 2, 2], &[7, 8, 9]);
    let set = ImageSet::read(&path, "test").unwrap();
    assert_eq!((set.len(), set.shape), (3, [3, 1, 2, 2]));
    assert_eq!(set.pixels(1..3), [4, 5, 6, 7, 8, 9, 10, 11]);
    let picked = set.select(&[2, 0]);
    assert_eq!(picked.labels, [9, 7]);
    assert_eq!(picked.pixels(0..2), [8, 9, 10, 11, 0, 1, 2, 3]);
    assert!(set.select(&[]).is_empty());
}

#[test]
fn shrunk_pixels_are_means_of_squares() {
    // Rows of 0 1 2 | 3 4 5 | 6 7 8: one square of two by two fits, 0 1 3 4; the next image has 9 more.
    let (_dir, path) = images(&[2, 1, 3, 3], &[7, 8]);
    let set = ImageSet::read(&path, "test").unwrap();
    let half = set.shrunk(2).unwrap();
    assert_eq!((half.shape, half.pixels(0..2), &half.labels), ([2, 1, 1, 1], &[2, 11][..], &set.labels));
    assert_eq!(set.shrunk(1).unwrap().pixels(0..2), set.pixels(0..2));
    assert!(set.shrunk(0).is_err() && set.shrunk(4).is_err());
}

#[test]
fn sets_that_are_none() {
    let (_dir, path) = images(&[3, 1, 2, 2], &[7, 8, 9]);
    assert!(matches!(ImageSet::read(&path, "train"), Err(Error::MissingTensor { .. })));
    let (_dir, path) = images(&[3, 4], &[7, 8, 9]);
    assert!(ImageSet::read(&path, "test").unwrap_err().to_string().contains("[n, channels, height, width]"));
    let (_dir, path) = images(&[3, 1, 2, 2], &[7, 8]);
    assert!(ImageSet::read(&path, "test").unwrap_err().to_string().contains("one label an image, found [2]"));
    let (_dir, path) = images(&[3, 1, 2, 2], &[7, -1, 8]);
    assert!(ImageSet::read(&path, "test").unwrap_err().to_string().contains("label -1 at index 1"));
}
