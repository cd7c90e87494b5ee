// The page's numbers: one compressed block of bytes, from which every array is cut.

/** The bytes of base64 text, inflated. */
export async function inflate(base64) {
  const text = atob(base64.trim());
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Arrays by name. An entry of `index` says an array's kind, its shape, and the offset of its bytes.
 *
 * The bytes of an array lie in planes: the first byte of every number, then the second, and so on.
 * Equal exponents stand together, so that they compress.
 */
export function cutArrays(bytes, index) {
  const arrays = new Map();
  for (const { name, kind, shape, offset } of index) {
    const count = shape.reduce((product, size) => product * size, 1);
    arrays.set(name, { data: READERS[kind](bytes, offset, count, shape), shape });
  }
  return arrays;
}

function joinPlanes(bytes, offset, count, planes) {
  const words = new Uint32Array(count);
  for (let plane = 0; plane < planes; plane++) {
    const start = offset + plane * count;
    for (let i = 0; i < count; i++) words[i] |= bytes[start + i] << (8 * plane);
  }
  return words;
}

const READERS = {
  uint8: (bytes, offset, count) => bytes.slice(offset, offset + count),
  uint32: (bytes, offset, count) => joinPlanes(bytes, offset, count, 4),
  float32: (bytes, offset, count) => new Float32Array(joinPlanes(bytes, offset, count, 4).buffer),
  // The upper half of a float32.
  bfloat16: (bytes, offset, count) =>
    new Float32Array(joinPlanes(bytes, offset, count, 2).map((half) => half << 16).buffer),
  // Whole numbers from -127 to 127, after a scale (float32) for each row.
  int8: (bytes, offset, count, [rows]) => {
    const scales = READERS.float32(bytes, offset, rows);
    const codes = new Int8Array(bytes.slice(offset + 4 * rows, offset + 4 * rows + count).buffer);
    const columns = count / rows;
    return Float32Array.from(codes, (code, i) => code * scales[Math.floor(i / columns)]);
  },
};
