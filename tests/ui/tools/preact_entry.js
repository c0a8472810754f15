// What http/ui/vendor/preact.js exports; "make vendor" bundles it.
import { h } from "preact";
import htm from "htm";

export { Fragment, createContext, h, render } from "preact";
export {
  useCallback,
  useContext,
  useEffect,
  useLayoutEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
} from "preact/hooks";
export const html = htm.bind(h);
