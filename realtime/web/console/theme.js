// Light or dark is settled before anything is painted; hence no module, which would run after the first paint.
document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
