// Dialogs over the page.
import type { RefObject } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';

/** Ref of a dialog that is modal for as long as it is on the page; the focus then returns to what opened it. */
export function useModal(onClose: () => void): RefObject<HTMLDialogElement | null> {
  const element = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const dialog = element.current;
    dialog?.addEventListener('close', onClose);
    dialog?.showModal();
    return () => {
      // The event comes later, when the same dialog may have been opened anew.
      dialog?.removeEventListener('close', onClose);
      dialog?.close();
    };
  }, []);
  return element;
}
