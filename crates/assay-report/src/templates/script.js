'use strict';
const inspector = document.getElementById('inspector');
const sort = document.getElementById('sort');
const show = document.getElementById('show');
let current = null;

function tell(token) {
  if (current) current.classList.remove('now');
  current = token;
  inspector.hidden = !token;
  if (!token) return;
  token.classList.add('now');
  const number = (text) => (text.startsWith('-') ? '\u2212' + text.slice(1) : '+' + text);
  const drop = token.dataset.d === undefined ? '' : '   drop ' + number(token.dataset.d);
  const kinds = [['predicted', 'predicted error'], ['injected', 'known error']];
  const marks = kinds.filter(([name]) => token.classList.contains(name)).map(([, text]) => '   ' + text);
  const text = JSON.stringify(token.textContent).slice(1, -1).replace(/\\"/g, '"');
  inspector.textContent = '\u201C' + text + '\u201D   reward ' + number(token.dataset.r) + drop + marks.join('');
}

function arrange() {
  const option = sort.selectedOptions[0];
  const sign = option.hasAttribute('data-descending') ? -1 : 1;
  for (const column of document.querySelectorAll('.column')) {
    const articles = [...column.querySelectorAll('article')];
    const key = (article) => sign * Number(article.dataset[option.value]);
    articles.sort((a, b) => key(a) - key(b) || a.dataset.place - b.dataset.place);
    for (const article of articles) {
      article.hidden = show.value !== '' && article.dataset.kind !== show.value;
      column.append(article);
    }
  }
}

function visit(step) {
  const articles = [...document.querySelectorAll('article:not([hidden])')];
  const here = articles.indexOf(document.activeElement.closest('article'));
  const next = articles[here < 0 ? 0 : Math.min(Math.max(here + step, 0), articles.length - 1)];
  if (next) {
    tell(null);
    next.querySelector('.tokens').focus({ preventScroll: true });
    next.scrollIntoView({ block: 'start' });
  }
}

function walk(tokens, step) {
  const all = [...tokens.querySelectorAll('i')];
  const here = all.indexOf(current);
  tell(all[here < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + step, 0), all.length - 1)]);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('select, a, summary')) return;
  const tokens = event.target.closest('.tokens');
  if (event.key === 'j') visit(1);
  else if (event.key === 'k') visit(-1);
  else if (event.key === 's') sort.focus();
  else if (event.key === 'Escape') tell(null);
  else if (tokens && event.key === 'ArrowRight') walk(tokens, 1);
  else if (tokens && event.key === 'ArrowLeft') walk(tokens, -1);
  else if (tokens && event.key === 'e') tell(tokens.querySelector('.predicted'));
  else return;
  event.preventDefault();
}

if (sort) {
  sort.addEventListener('change', arrange);
  show.addEventListener('change', arrange);
  document.addEventListener('keydown', press);
  document.addEventListener('mousemove', (event) => {
    // If the page scrolls under a pointer at rest, the selection made by keyboard must not change.
    if (event.movementX === 0 && event.movementY === 0) return;
    const token = event.target.closest('.tokens i');
    if (token !== current) tell(token);
  });
  document.addEventListener('focusout', (event) => event.target.closest('.tokens') && tell(null));
}
