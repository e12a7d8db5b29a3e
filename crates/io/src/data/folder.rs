//! A folder of images, one folder a class: `class_name/picture.png`, also jpg, jpeg and bmp.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageReader, Limits};

use super::augment::{Image, check, resize_centre};
use super::images::ImageSet;
use crate::error::{Error, Result};

/// What the decoder of one image may hold, in bytes.
const DECODER_BYTES: u64 = 512 << 20;

/// The images of a folder by class, read one at a time.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    classes: Vec<String>,
    files: Vec<(PathBuf, usize)>,
    resize: Option<[usize; 2]>,
}

impl ImageFolder {
    /// Lists the folder. Classes are the folders in it, sorted by name; the files of a class are sorted by name, too. Hidden
    /// entries and files that are no images by their ending are passed over. With `resize`, `[height, width]`, images are
    /// resized to cover it and their centre is cut out.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is no image, or a name is not UTF-8; [`Error::Invalid`] if a side of `resize` is 0
    /// or above 16,384; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, resize: Option<[usize; 2]>) -> Result<Self> {
        let path = path.as_ref();
        if let Some(size) = resize {
            check::sides("resize", size)?;
        }
        let (mut classes, mut files) = (Vec::new(), Vec::new());
        for (name, folder) in entries(path)?.into_iter().filter(|(_, path)| path.is_dir()) {
            let images = entries(&folder)?.into_iter().filter(|(name, _)| is_image(name));
            files.extend(images.map(|(_, file)| (file, classes.len())));
            classes.push(name);
        }
        if files.is_empty() {
            let message = "no images: expected CLASS/NAME.png (or jpg, jpeg, bmp)";
            return Err(Error::malformed(&path.display().to_string(), message));
        }
        Ok(Self { classes, files, resize })
    }

    /// Names of the classes, sorted.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads image `index`, `[3, height, width]` in red, green, blue, and its class.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an image that cannot be decoded; [`Error::Invalid`] if there is no such image; [`Error::Io`].
    pub fn read(&self, index: usize) -> Result<(Image<u8>, usize)> {
        let Some((path, class)) = self.files.get(index) else {
            return Err(Error::invalid("image", format!("number {index} of {}", self.len())));
        };
        let bytes = crate::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let image = decode_image(&bytes, &path.display().to_string())?;
        Ok((self.resize.map_or(Ok(image.clone()), |size| resize_centre(&image, size))?, *class))
    }

    /// Reads all images into memory.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the name of a file whose size differs from that of the first one; those of [`Self::read`].
    pub fn read_all(&self) -> Result<ImageSet> {
        let (mut pixels, mut labels, mut shape) = (Vec::new(), Vec::new(), None);
        for index in 0..self.len() {
            let (image, class) = self.read(index)?;
            let expected = *shape.get_or_insert(image.shape());
            if image.shape() != expected {
                let message = format!("size {:?}, but {expected:?} before; set resize", image.shape());
                return Err(Error::malformed(&self.files[index].0.display().to_string(), message));
            }
            pixels.extend_from_slice(image.pixels());
            labels.push(class as i64);
        }
        let [c, h, w] = shape.unwrap_or_default();
        Ok(ImageSet::from_pixels([labels.len(), c, h, w], labels, pixels))
    }
}

/// Decodes a png, jpeg or bmp, told by its first bytes, to `[3, height, width]`; what is transparent loses that. `name` is for
/// messages.
///
/// # Errors
/// [`Error::Malformed`] for any other file, a damaged one, or one too large to decode.
pub fn decode_image(bytes: &[u8], name: &str) -> Result<Image<u8>> {
    let wrong = |e: image::ImageError| Error::malformed(name, e.to_string());
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| Error::malformed(name, e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(check::LONGEST_SIDE as u32);
    limits.max_image_height = Some(check::LONGEST_SIDE as u32);
    limits.max_alloc = Some(DECODER_BYTES);
    reader.limits(limits);
    let rgb = reader.decode().map_err(wrong)?.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    let bytes = rgb.into_raw();
    let planes = (0..3).flat_map(|c| bytes.iter().skip(c).step_by(3).copied()).collect();
    Image::new([3, height, width], planes).map_err(|e| Error::malformed(name, e.to_string()))
}

/// What lies in a folder, by name, without hidden entries.
fn entries(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e| Error::io("read", path, e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::malformed(&path.display().to_string(), format!("{name:?} is not UTF-8"))
        })?;
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    Ok(entries)
}

fn is_image(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| ["png", "jpg", "jpeg", "bmp"].contains(&ending.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(path: &Path, size: (u32, u32), colour: [u8; 3]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(size.0, size.1, image::Rgb(colour)).save(path).unwrap();
    }

    #[test]
    fn classes_and_files_are_sorted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        picture(&dir.path().join("dog/b.png"), (4, 2), [1, 2, 3]);
        picture(&dir.path().join("dog/a.BMP"), (4, 2), [4, 5, 6]);
        picture(&dir.path().join("cat/z.png"), (4, 2), [7, 8, 9]);
        std::fs::write(dir.path().join("cat/notes.txt"), "x").unwrap();
        let folder = ImageFolder::open(dir.path(), None).unwrap();
        assert_eq!((folder.classes(), folder.len()), (&["cat".into(), "dog".into()][..], 3));
        let set = folder.read_all().unwrap();
        assert_eq!((set.shape, &set.labels[..]), ([3, 3, 2, 4], &[0, 1, 1][..]));
        assert_eq!(set.pixels(1..2)[..9], [4, 4, 4, 4, 4, 4, 4, 4, 5]);
        assert!(folder.read(3).is_err());

        picture(&dir.path().join("dog/c.jpg"), (6, 6), [9, 9, 9]);
        let error = ImageFolder::open(dir.path(), None).unwrap().read_all().unwrap_err();
        assert!(error.to_string().contains("c.jpg: size [3, 6, 6]"), "{error}");
        let resized = ImageFolder::open(dir.path(), Some([2, 2])).unwrap().read_all().unwrap();
        assert_eq!(resized.shape, [4, 3, 2, 2]);
    }

    #[test]
    fn folders_without_images_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ImageFolder::open(dir.path(), None), Err(Error::Malformed { .. })));
        assert!(matches!(ImageFolder::open(dir.path().join("no"), None), Err(Error::Io { .. })));
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/x.png"), "no image").unwrap();
        let folder = ImageFolder::open(dir.path(), None).unwrap();
        assert!(folder.read(0).unwrap_err().to_string().contains("x.png"));
        assert!(ImageFolder::open(dir.path(), Some([0, 2])).is_err());
    }
}
