import { render } from 'preact';
import { refreshModels } from './api/models';
import { restoreConversations } from './state/conversations';
import { keepSettings } from './state/settings';
import { App } from './view/app';
import './style.css';

keepSettings();
const root = document.getElementById('app');
if (root) render(<App />, root);
restoreConversations();
refreshModels();
