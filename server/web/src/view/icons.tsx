// Line icons, 20×20, drawn here so that nothing is fetched.
const paths = {
  plus: 'M10 4v12M4 10h12',
  send: 'M10 16V4M5 9l5-5 5 5',
  stop: 'M6 6h8v8H6z',
  picture: 'M3 4h14v12H3zM3 13l4-4 4 4 2-2 4 4M12.500 7.500h.01',
  camera: 'M3 6h3l1.500-2h5L14 6h3v10H3zM10 13.500a3 3 0 1 0 0-6 3 3 0 0 0 0 6',
  copy: 'M7 7h9v9H7zM13 7V4H4v9h3',
  check: 'M4 10.500l4 4 8-9',
  retry: 'M16 10a6 6 0 1 1-1.800-4.300M16 3v4h-4',
  edit: 'M4 16l1-4 8-8 3 3-8 8z',
  trash: 'M4 6h12M8 6V4h4v2M6 6l1 10h6l1-10',
  close: 'M5 5l10 10M15 5L5 15',
  menu: 'M3 6h14M3 10h14M3 14h14',
  settings: 'M4 6h7M15 6h1M4 14h1M9 14h7M13 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4M7 16a2 2 0 1 0 0-4 2 2 0 0 0 0 4',
  chart: 'M3 17h14M5 14V9M9 14V5M13 14V8M17 14v-3',
  left: 'M12 5l-5 5 5 5',
  right: 'M8 5l5 5-5 5',
  down: 'M10 4v12M5 11l5 5 5-5',
  download: 'M10 3v10M6 9l4 4 4-4M4 17h12',
  lock: 'M5 9h10v8H5zM7 9V6a3 3 0 0 1 6 0v3',
} as const;

export type IconName = keyof typeof paths;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path
        d={paths[name]}
        fill={name === 'stop' ? 'currentColor' : 'none'}
        stroke="currentColor"
        stroke-width="1.6"
        stroke-linecap="round"
        stroke-linejoin="round"
      />
    </svg>
  );
}

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: (event: MouseEvent) => void;
  id?: string;
  class?: string;
  disabled?: boolean;
  pressed?: boolean;
}

/** A button that is only an icon: its label is read aloud and shown on hover. */
export function IconButton({
  icon,
  label,
  onClick,
  id,
  class: extra = '',
  disabled = false,
  pressed,
}: IconButtonProps) {
  return (
    <button
      type="button"
      id={id}
      class={`icon-button ${extra}`}
      aria-label={label}
      title={label}
      disabled={disabled}
      aria-pressed={pressed}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}
