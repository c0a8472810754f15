/**
 * Keeps long lists short in the page: rows are in chunks, and only chunks near what is visible are there;
 * the height of the others is kept free. Rows may be of any height: each chunk's is measured when it is
 * shown.
 */
import { useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact.js";

const CHUNK_COUNT = 30;
/** Shorter lists are shown whole. */
const WHOLE_UP_TO_COUNT = 150;
const MARGIN_PX = 500;

/**
 * @typedef {object} Windowed
 * @property {number} first The first row that is shown.
 * @property {number} last The row after the last.
 * @property {number} beforePx
 * @property {number} afterPx
 */

/**
 * Returns which of the rows to show.
 *
 * @param {import("../vendor/preact.js").RefObject<HTMLElement | null>} list Its rows are elements with `data-row`, their index.
 * @param {number} count
 * @param {number} rowPx A first guess of a row's height.
 * @returns {Windowed}
 */
export function useWindow(list, count, rowPx) {
  /** @type {import("../vendor/preact.js").RefObject<number[] | null>} */
  const measured = useRef(null);
  measured.current ??= [];
  const heights = measured.current;
  const chunks = Math.ceil(count / CHUNK_COUNT);
  const isWhole = count <= WHOLE_UP_TO_COUNT;
  const [[from, to], setRange] = useState([0, 3]);

  /** @param {number} chunk */
  const heightOf = (chunk) => heights[chunk] ?? rowPx * Math.min(CHUNK_COUNT, count - chunk * CHUNK_COUNT);

  useLayoutEffect(() => {
    if (isWhole || list.current === null) return;
    /** @type {Map<number, [number, number]>} */
    const edges = new Map();
    for (const row of list.current.querySelectorAll("[data-row]")) {
      const box = row.getBoundingClientRect();
      const chunk = Math.floor(Number(row.getAttribute("data-row")) / CHUNK_COUNT);
      const [top] = edges.get(chunk) ?? [box.top];
      edges.set(chunk, [top, box.bottom]);
    }
    for (const [chunk, [top, bottom]] of edges) heights[chunk] = bottom - top;
  });

  useEffect(() => {
    if (isWhole) return undefined;
    let frame = 0;
    const look = () => {
      frame = 0;
      if (list.current === null) return;
      const top = list.current.getBoundingClientRect().top;
      let y = top;
      let first = 0;
      while (first < chunks - 1 && y + heightOf(first) < -MARGIN_PX) y += heightOf(first++);
      let last = first;
      while (last < chunks && y < innerHeight + MARGIN_PX) y += heightOf(last++);
      setRange((before) => (before[0] === first && before[1] === last ? before : [first, last]));
    };
    const scrolled = () => {
      frame ||= requestAnimationFrame(look);
    };
    look();
    addEventListener("scroll", scrolled, { passive: true });
    addEventListener("resize", scrolled, { passive: true });
    return () => {
      cancelAnimationFrame(frame);
      removeEventListener("scroll", scrolled);
      removeEventListener("resize", scrolled);
    };
  }, [count, isWhole]);

  if (isWhole) return { first: 0, last: count, beforePx: 0, afterPx: 0 };
  const until = Math.min(Number(to), chunks);
  const since = Math.min(Number(from), Math.max(0, until - 1));
  let beforePx = 0;
  for (let chunk = 0; chunk < since; chunk++) beforePx += heightOf(chunk);
  let afterPx = 0;
  for (let chunk = until; chunk < chunks; chunk++) afterPx += heightOf(chunk);
  return { first: since * CHUNK_COUNT, last: Math.min(until * CHUNK_COUNT, count), beforePx, afterPx };
}
