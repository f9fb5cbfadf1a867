// Makes pages of the console live: moments in the reader's zone, parts that change. Without it every page can be read.
"use strict";

(() => {
  const zone = document.getElementById("zone");
  const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

  const localise = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (!Number.isNaN(at.getTime())) {
        time.textContent = moment.format(at);
        time.title = full.format(at);
      }
    }
  };
  localise(document);
  if (zone) {
    const named = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" }).formatToParts(new Date());
    const short = named.find((part) => part.type === "timeZoneName");
    const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
    zone.textContent = short && short.value !== name ? name + " (" + short.value + ")" : name;
  }

  const main = document.querySelector("main[data-live]");
  const state = document.getElementById("live-state");
  if (!main || !state || !window.EventSource) {
    return;
  }
  const AGAIN = 15000;
  let source = null;
  let later = null;
  let paused = false;

  const say = (words) => {
    if (state.textContent !== words) {
      state.textContent = words;
    }
  };
  const put = (id, html) => {
    const part = document.getElementById(id);
    // Not under somebody's fingers.
    if (part && !part.contains(document.activeElement)) {
      part.innerHTML = html;
      localise(part);
    }
  };
  const close = () => {
    clearTimeout(later);
    if (source) {
      source.close();
      source = null;
    }
  };
  const open = () => {
    close();
    if (paused || document.hidden) {
      return;
    }
    source = new EventSource(main.dataset.live);
    source.onopen = () => say("live");
    source.onmessage = (event) => {
      say("live");
      for (const [id, html] of JSON.parse(event.data)) {
        put(id, html);
      }
      document.dispatchEvent(new CustomEvent("fieldgate:live"));
    };
    source.addEventListener("over", () => {
      close();
      location.reload();
    });
    source.onerror = () => {
      close();
      say("the gateway does not answer, trying again");
      later = setTimeout(open, AGAIN);
    };
  };
  document.addEventListener("visibilitychange", open);
  window.addEventListener("pagehide", close);

  const pause = document.createElement("button");
  pause.className = "plain";
  pause.type = "button";
  pause.textContent = "Pause";
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) {
      close();
      say("paused");
    } else {
      open();
    }
  });
  state.after(" ", pause);
  open();
})();
