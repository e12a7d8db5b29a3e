//! Damaged images and series: an error or sound numbers, never a panic.

use std::path::Path;

use trimtab_hostile::storm_of;
use trimtab_io::{Series, decode_image};

/// A small picture as a file of this kind.
fn picture(dir: &Path, ending: &str) -> Vec<u8> {
    let path = dir.join(format!("p.{ending}"));
    let colour = |x, y| image::Rgb([(x * 20) as u8, (y * 30) as u8, (x * y) as u8]);
    image::RgbImage::from_fn(12, 8, colour).save(&path).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn mutated_images_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, ending) in ["png", "jpg", "bmp"].into_iter().enumerate() {
        let whole = picture(dir.path(), ending);
        storm_of(&whole, seed as u64, |bytes| match decode_image(bytes, "p") {
            Ok(image) => {
                assert_eq!(image.pixels().len(), image.shape().iter().product::<usize>());
                true
            }
            Err(_) => false,
        });
    }
}

#[test]
fn mutated_series_do_no_harm() {
    let whole = b"date,a,b\n2016-07-01,5.8,-2.0e1\n2016-07-02,\"1\",3\n2016-07-03,0,1.5\n";
    storm_of(whole, 7, |bytes| match Series::parse(bytes, Path::new("s.csv")) {
        Ok(mut series) => {
            let rows = series.rows();
            assert_eq!(series.slice(0..rows).unwrap().len(), rows * series.columns.len());
            series.standardize(0..rows).is_ok()
        }
        Err(_) => false,
    });
}
