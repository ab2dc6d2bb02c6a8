// Where the focus goes when what had it leaves the page: left alone it falls to the page's beginning, and who has only a
// keyboard starts again from there.

/** Focuses what `find` finds once the page shows what was changed: before, it may be missing or out of reach. */
export function focusSoon(find: () => Element | null | undefined): void {
  requestAnimationFrame(() => {
    const element = find();
    if (element instanceof HTMLElement) element.focus();
  });
}

export const focusComposer = (): void => focusSoon(() => document.getElementById('composer'));

/** Where a finger types, the focus would raise a keyboard that nobody asked for. */
export const fineFingers = (): boolean => matchMedia('(pointer: fine)').matches;
export function offerComposer(): void {
  if (fineFingers()) focusComposer();
}
