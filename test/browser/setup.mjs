// The page as it is now: an old one, or none, would be tested instead.
export { buildPage as setup } from '../../scripts/lib/prepare.mjs';
