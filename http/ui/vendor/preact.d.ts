// The types of preact.js, which is Preact's main module, its hooks and htm in one file.
import type { VNode } from "preact";

export { Fragment, createContext, h, render } from "preact";
export type { ComponentChildren, ComponentType, RefObject, VNode } from "preact";
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
export function html(strings: TemplateStringsArray, ...values: unknown[]): VNode;
