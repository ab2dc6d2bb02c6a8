/** A failure of the hub or of a download, with what to do about it. */
export class HubError extends Error {}
