//! Labelled images in a safetensors file.

use std::ops::Range;
use std::path::Path;

use crate::bytes::Bytes;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Images with labels, one byte a colour.
#[derive(Clone, Debug)]
pub struct ImageSet {
    /// `[n, channels, height, width]`.
    pub shape: [usize; 4],
    /// Class of each image, from 0.
    pub labels: Vec<i64>,
    pixels: Bytes,
}

impl ImageSet {
    /// Reads `SPLIT.images` (u8, `[n, channels, height, width]`) and `SPLIT.labels` (integers, `[n]`); the pixels stay in
    /// the mapped file.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] if the file has no such split, [`Error::Tensor`] for another type or shape, and those of
    /// [`Checkpoint::open`].
    pub fn read(path: impl AsRef<Path>, split: &str) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let (images_name, labels_name) = (format!("{split}.images"), format!("{split}.labels"));
        let file = checkpoint.path().display().to_string();
        let images = checkpoint.tensor(&images_name)?;
        let &[n, c, h, w] = &images.shape[..] else {
            let message = format!("expected [n, channels, height, width], found {:?}", images.shape);
            return Err(Error::tensor(&file, &images_name, message));
        };
        if images.dtype != Dtype::U8 {
            return Err(Error::tensor(&file, &images_name, format!("expected U8, found {}", images.dtype)));
        }
        let labels = checkpoint.tensor(&labels_name)?;
        if labels.shape != [n] {
            let message = format!("expected [{n}], one label an image, found {:?}", labels.shape);
            return Err(Error::tensor(&file, &labels_name, message));
        }
        let labels = labels.to_i64().map_err(|e| Error::tensor(&file, &labels_name, e.to_string()))?;
        if let Some(i) = labels.iter().position(|&label| label < 0) {
            let message = format!("label {} at index {i} is negative", labels[i]);
            return Err(Error::tensor(&file, &labels_name, message));
        }
        Ok(Self { shape: [n, c, h, w], labels, pixels: images.bytes })
    }

    /// Images whose numbers lie in memory.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `pixels` do not fill `shape`, or there is not one label from 0 on for each image.
    pub fn new(shape: [usize; 4], labels: Vec<i64>, pixels: Vec<u8>) -> Result<Self> {
        if shape.iter().product::<usize>() != pixels.len() || labels.len() != shape[0] {
            let (found, count) = (pixels.len(), labels.len());
            return Err(Error::invalid(
                "images",
                format!("{found} numbers and {count} labels do not fill {shape:?}"),
            ));
        }
        match labels.iter().find(|&&label| label < 0) {
            Some(label) => Err(Error::invalid("images", format!("label {label} is negative"))),
            None => Ok(Self::from_pixels(shape, labels, pixels)),
        }
    }

    /// The same, unchecked.
    pub(super) fn from_pixels(shape: [usize; 4], labels: Vec<i64>, pixels: Vec<u8>) -> Self {
        Self { shape, labels, pixels: pixels.into() }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pixels of consecutive images, `[range.len(), channels, height, width]`.
    ///
    /// # Panics
    /// If `range` reaches past the last image.
    pub fn pixels(&self, range: Range<usize>) -> &[u8] {
        let size = self.image_len();
        &self.pixels[range.start * size..range.end * size]
    }

    /// The images with these indices, in this order, copied.
    ///
    /// # Panics
    /// If an index is not below [`Self::len`].
    pub fn select(&self, indices: &[usize]) -> Self {
        let pixels: Vec<u8> = indices.iter().flat_map(|&i| self.pixels(i..i + 1)).copied().collect();
        let [_, c, h, w] = self.shape;
        Self {
            shape: [indices.len(), c, h, w],
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            pixels: pixels.into(),
        }
    }

    /// The images with sides `factor` times shorter: every pixel is the rounded mean of a square. What is left over at the right
    /// and below is dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no pixel would be left.
    pub fn shrunk(&self, factor: usize) -> Result<Self> {
        let [n, c, h, w] = self.shape;
        if factor == 0 || h < factor || w < factor {
            return Err(Error::invalid("shrunk", format!("images of {h} by {w} pixels, by {factor}")));
        }
        let (rows, columns, area) = (h / factor, w / factor, factor * factor);
        let mut pixels = Vec::with_capacity(n * c * rows * columns);
        for plane in self.pixels(0..n).chunks_exact(h * w) {
            for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                let row = |i: usize| &plane[(y * factor + i) * w + x * factor..][..factor];
                let sum: usize = (0..factor).flat_map(row).map(|&p| usize::from(p)).sum();
                pixels.push(((sum + area / 2) / area) as u8);
            }
        }
        Ok(Self::from_pixels([n, c, rows, columns], self.labels.clone(), pixels))
    }

    fn image_len(&self) -> usize {
        self.shape[1..].iter().product()
    }
}
