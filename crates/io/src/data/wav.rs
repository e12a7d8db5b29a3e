//! Sounds in wav files.

use std::path::Path;

use hound::{SampleFormat, WavReader};

use crate::error::{Error, Result};

/// A sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Wav {
    /// Samples a second of each channel.
    pub rate: u32,
    /// Number of channels.
    pub channels: usize,
    /// `[frames, channels]`, frame by frame. Integers become `[-1, 1]`; a file of floats keeps its numbers, which reach past
    /// `[-1, 1]` where it is louder than full scale.
    pub samples: Vec<f32>,
}

impl Wav {
    /// Reads uncompressed samples: integers of 8, 16, 24 or 32 bits, or floats of 32.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a damaged file or another encoding; [`Error::Io`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = crate::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Self::parse(&bytes, &path.display().to_string())
    }

    /// The same from bytes; `name` is for messages.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        let wrong = |e: hound::Error| Error::malformed(name, message(&e));
        let mut reader = WavReader::new(bytes).map_err(wrong)?;
        let (spec, len) = (reader.spec(), reader.len() as usize);
        // A sample is a byte at least. What else a header may promise is not believed: memory is taken for this many.
        if len > bytes.len() {
            return Err(Error::malformed(name, format!("{len} samples in {} bytes", bytes.len())));
        }
        if spec.sample_rate == 0 {
            return Err(Error::malformed(name, "0 samples a second"));
        }
        let mut samples = Vec::with_capacity(len);
        match spec.sample_format {
            SampleFormat::Int => {
                let full = 2f64.powi(i32::from(spec.bits_per_sample) - 1);
                for sample in reader.samples::<i32>() {
                    samples.push((f64::from(sample.map_err(wrong)?) / full) as f32);
                }
            }
            SampleFormat::Float => {
                for sample in reader.samples::<f32>() {
                    samples.push(sample.map_err(wrong)?);
                }
            }
        }
        if let Some(index) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(Error::malformed(name, format!("sample {index} is {}", samples[index])));
        }
        Ok(Self { rate: spec.sample_rate, channels: usize::from(spec.channels), samples })
    }

    /// Number of frames: samples of each channel.
    pub fn frames(&self) -> usize {
        self.samples.len().checked_div(self.channels).unwrap_or(0)
    }
}

/// What is wrong with the file; the reader's own words say little of what it does not read.
fn message(error: &hound::Error) -> String {
    match error {
        hound::Error::Unsupported => "expected integers of 8, 16, 24 or 32 bits, or floats of 32".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use hound::{WavSpec, WavWriter};

    use super::*;

    fn write<S: hound::Sample + Copy>(
        channels: u16,
        bits: u16,
        format: SampleFormat,
        samples: &[S],
    ) -> Vec<u8> {
        let spec = WavSpec { channels, sample_rate: 8000, bits_per_sample: bits, sample_format: format };
        let mut file = Cursor::new(Vec::new());
        let mut writer = WavWriter::new(&mut file, spec).unwrap();
        samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
        file.into_inner()
    }

    #[test]
    fn integers_of_every_width_become_shares_of_full_scale() {
        for bits in [8u16, 16, 24, 32] {
            let (least, quarter) = (i32::MIN >> (32 - bits), 1i32 << (bits - 3));
            let bytes = write(2, bits, SampleFormat::Int, &[least, 0, quarter, -quarter]);
            let wav = Wav::parse(&bytes, "w").unwrap();
            assert_eq!((wav.rate, wav.channels, wav.frames()), (8000, 2, 2), "{bits}");
            assert_eq!(wav.samples, [-1.0, 0.0, 0.25, -0.25], "{bits}");
            let most = write(1, bits, SampleFormat::Int, &[i32::MAX >> (32 - bits)]);
            let most = Wav::parse(&most, "w").unwrap().samples[0];
            assert!(most > 0.99 && most <= 1.0, "{bits}: {most}");
        }
    }

    #[test]
    fn floats_stay_as_they_are() {
        let wav = Wav::parse(&write(1, 32, SampleFormat::Float, &[0.5f32, -1.25]), "w").unwrap();
        assert_eq!(wav.samples, [0.5, -1.25]);
        let error = Wav::parse(&write(1, 32, SampleFormat::Float, &[0.5f32, f32::NAN]), "w").unwrap_err();
        assert!(error.to_string().contains("sample 1 is NaN"), "{error}");
    }

    #[test]
    fn files_that_promise_too_much() {
        let whole = write(1, 16, SampleFormat::Int, &[1i32, 2, 3]);
        assert!(Wav::parse(&whole[..whole.len() - 1], "w").is_err());
        let place = whole.windows(4).position(|bytes| bytes == b"data").unwrap() + 4;
        let mut long = whole.clone();
        long[place..place + 4].copy_from_slice(&0xFFFF_FFF0u32.to_le_bytes());
        let error = Wav::parse(&long, "w").unwrap_err();
        assert!(error.to_string().contains("2147483640 samples in"), "{error}");
        let mut compressed = whole.clone();
        let tag = whole.windows(4).position(|bytes| bytes == b"fmt ").unwrap() + 8;
        compressed[tag] = 7;
        let error = Wav::parse(&compressed, "w").unwrap_err();
        assert!(error.to_string().contains("expected integers of 8"), "{error}");
        assert!(Wav::parse(b"RIFF", "w").is_err() && Wav::parse(b"", "w").is_err());
        let silence = Wav::parse(&write::<i32>(1, 16, SampleFormat::Int, &[]), "w").unwrap();
        assert_eq!((silence.frames(), silence.samples.len()), (0, 0));
    }
}
