// What screen readers say of things that happen away from the focus.
import { signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { conversation, conversations, streaming } from '../state/conversations';

const said = signal('');
export const announce = (text: string): void => {
  said.value = text;
};

/** An answer is heard once, when it is complete, instead of every token; one that is only looked at again is not. */
export function Announcer() {
  const live = streaming.value;
  const before = useRef(live);
  useEffect(() => {
    if (live) announce('The answer is being written.');
    else if (before.current) announce(outcome(before.current.conversation, before.current.message));
    before.current = live;
  }, [live]);
  return (
    <div class="hidden" aria-live="polite" data-announcer>
      {said.value}
    </div>
  );
}

function outcome(conversationId: string, messageId: string): string {
  const open = conversations.value.find(({ id }) => id === conversationId);
  const message = open?.messages[messageId];
  // An error is an alert of its own.
  if (!open || !message || message.error) return '';
  if (message.finish === 'stopped') return 'Stopped.';
  return conversation.value?.id === conversationId
    ? spoken(messageId)
    : `The answer in “${open.title || 'Untitled'}” is complete.`;
}

/** The words as the page shows them: in Markdown's source the marks would be read out too. */
function spoken(messageId: string): string {
  const blocks = document.querySelectorAll(`[data-message="${messageId}"] .answer > .markdown > .block`);
  return [...blocks]
    .map((block) => {
      const copy = block.cloneNode(true) as Element;
      for (const head of copy.querySelectorAll('.code-head')) head.remove();
      return copy.textContent?.trim() ?? '';
    })
    .join('\n');
}
