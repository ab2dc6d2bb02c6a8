/** Ref of a dialog that is modal for as long as it is on the page. */
export function asModal(dialog: HTMLDialogElement | null): void {
  if (dialog && !dialog.open) dialog.showModal();
}
