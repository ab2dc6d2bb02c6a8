// A picture at full size, over everything; Escape closes it.
import { signal } from '@preact/signals';
import type { Picture } from '../state/tree';
import { useModal } from './modal';

const shown = signal<Picture | null>(null);
export const openPicture = (picture: Picture): void => {
  shown.value = picture;
};

export function PictureViewer() {
  return shown.value && <Viewer picture={shown.value} />;
}

function Viewer({ picture }: { picture: Picture }) {
  const close = () => (shown.value = null);
  return (
    <dialog class="viewer" aria-label={picture.name} ref={useModal(close)}>
      <img src={picture.url} alt={picture.name} />
      <button type="button" class="button" onClick={close}>
        Close
      </button>
    </dialog>
  );
}
