
"use strict";
// Masks from COCO run lengths.

/** The counts of a compressed string: alternating lengths of background and mask, column by column. */
function counts(text) {
  const found = [];
  for (let i = 0; i < text.length;) {
    let value = 0, place = 1, group;
    do {
      group = text.charCodeAt(i++) - 48;
      value += (group & 31) * place; // not <<: counts may need more than 32 bits on the way
      place *= 32;
    } while (group & 32);
    if (group & 16) value -= place;
    if (found.length > 2) value += found[found.length - 2];
    found.push(value);
  }
  return found;
}

/** A mask as bytes, row by row, with its area and its box (right and bottom exclusive). */
function decode(text, [height, width]) {
  const pixels = new Uint8Array(width * height);
  const box = { left: width, top: height, right: 0, bottom: 0 };
  let place = 0, area = 0;
  counts(text).forEach((count, i) => {
    const start = place;
    place += count;
    if (i % 2 === 0 || !count) return;
    let x = Math.floor(start / height), y = start % height;
    const right = Math.floor((place - 1) / height), wraps = right > x; // over the lower end of a column
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, right + 1);
    box.top = wraps ? 0 : Math.min(box.top, y);
    box.bottom = wraps ? height : Math.max(box.bottom, y + count);
    area += count;
    for (let left = count; left > 0; left--) {
      pixels[y * width + x] = 1;
      if (++y === height) [x, y] = [x + 1, 0];
    }
  });
  return { pixels, width, area, box };
}

/** For every pixel of a mask's box, row by row, how many steps it lies from outside: 0 there, 1 at the edge. */
function depths({ pixels, width, box }) {
  const wide = box.right - box.left, tall = box.bottom - box.top;
  const depth = new Uint16Array(wide * tall);
  for (let y = 0, i = 0; y < tall; y++)
    for (let x = 0; x < wide; x++, i++)
      if (pixels[(box.top + y) * width + box.left + x])
        depth[i] = Math.min(x ? depth[i - 1] : 0, y ? depth[i - wide] : 0) + 1;
  for (let y = tall - 1, i = wide * tall - 1; y >= 0; y--)
    for (let x = wide - 1; x >= 0; x--, i--)
      if (depth[i])
        depth[i] = Math.min(depth[i], (x < wide - 1 ? depth[i + 1] : 0) + 1, (y < tall - 1 ? depth[i + wide] : 0) + 1);
  return depth;
}

/** Intersection over union of two masks of one size. */
function overlap(mask, other) {
  let shared = 0;
  for (let y = mask.box.top; y < mask.box.bottom; y++)
    for (let i = y * mask.width + mask.box.left; i < y * mask.width + mask.box.right; i++)
      shared += mask.pixels[i] & other.pixels[i];
  return shared / (mask.area + other.area - shared);
}
