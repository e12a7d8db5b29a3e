//! Damaged images, series and sounds: an error or sound numbers, never a panic.

use std::path::Path;

use trimtab_hostile::storm_of;
use trimtab_io::{Series, Wav, decode_image};

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

/// A wav file: `format` is 1 for integers, 3 for floats; a part before the data that readers pass over.
fn sound(format: u16, channels: u16, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * bits / 8;
    let mut fmt = Vec::new();
    fmt.extend([format, channels].map(u16::to_le_bytes).concat());
    fmt.extend([8000, 8000 * u32::from(block)].map(u32::to_le_bytes).concat());
    fmt.extend([block, bits].map(u16::to_le_bytes).concat());
    let mut body = b"WAVE".to_vec();
    for (name, part) in [(b"fmt ", &fmt[..]), (b"LIST", b"INFO"), (b"data", data)] {
        body.extend(name);
        body.extend((part.len() as u32).to_le_bytes());
        body.extend(part);
    }
    [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

#[test]
fn mutated_sounds_do_no_harm() {
    let floats: Vec<u8> = [0.0f32, 0.5, -1.0, 0.25].iter().flat_map(|v| v.to_le_bytes()).collect();
    let sounds = [
        sound(1, 1, 8, &[0, 128, 255, 7]),
        sound(1, 2, 16, &[1, 2, 3, 4, 5, 6, 7, 8]),
        sound(1, 1, 24, &[9; 12]),
        sound(1, 2, 32, &[200; 16]),
        sound(3, 1, 32, &floats),
    ];
    for (seed, whole) in sounds.iter().enumerate() {
        storm_of(whole, 20 + seed as u64, |bytes| match Wav::parse(bytes, "w") {
            Ok(wav) => {
                assert!(wav.rate > 0 && wav.samples.iter().all(|sample| sample.is_finite()));
                assert_eq!(wav.samples.len(), wav.frames() * wav.channels);
                true
            }
            Err(_) => false,
        });
    }
}
