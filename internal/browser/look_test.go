package browser

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var update = flag.Bool("update", false, "make the screenshots in docs/screenshots anew")

const (
	screenshots    = "../../docs/screenshots"
	mostScreenshot = 60 << 10 // bytes
)

// axeScript is axe-core, or "" where it is not installed.
func axeScript(t *testing.T) string {
	t.Helper()
	lock, err := os.ReadFile("testdata/axe/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(cache, "gl-k8s-integrator", "axe-core", "node_modules")
	have, err := os.ReadFile(filepath.Join(modules, ".installed"))
	if err != nil || !bytes.Equal(have, lock) {
		return ""
	}
	script, err := os.ReadFile(filepath.Join(modules, "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// violation is what axe-core finds.
type violation struct {
	ID, Impact, Help string
	Nodes            []struct {
		Target         []any
		FailureSummary string
	}
}

func (v violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s): %s", v.ID, v.Impact, v.Help)
	for _, n := range v.Nodes {
		fmt.Fprintf(&b, "\n    %v: %s", n.Target, strings.ReplaceAll(n.FailureSummary, "\n", " "))
	}
	return b.String()
}

// accessible fails where axe-core finds something serious in the page that is shown; what is moderate, it tells. rules are those to
// look at; all without any.
func (w *window) accessible(what, axe string, rules ...string) {
	w.t.Helper()
	only := ""
	if len(rules) > 0 {
		only = fmt.Sprintf(`, runOnly: {type: "rule", values: ["%s"]}`, strings.Join(rules, `", "`))
	}
	w.do("loading axe-core", chromedp.Evaluate[chromedp.Void](axe))
	found := ask(w, "running axe-core", chromedp.Evaluate[[]violation](
		`axe.run(document, {resultTypes: ["violations"]`+only+`}).then(r => r.violations)`, chromedp.EvalAwaitPromise))
	for _, v := range found {
		if v.Impact == "serious" || v.Impact == "critical" {
			w.t.Errorf("%s: %v", what, v)
		} else {
			w.t.Logf("%s: %v", what, v)
		}
	}
}

// prefers changes what the person prefers, for the pages that are loaded from now on.
func (w *window) prefers(language, scheme string) {
	w.t.Helper()
	agent := ask(w, "reading the browser's name", chromedp.Evaluate[string](`navigator.userAgent`))
	w.as.language, w.as.dark = language, scheme == "dark"
	if err := w.set(agent); err != nil {
		w.t.Fatal(err)
	}
}

// sticksOut finds what is wider than the room that it has: the page itself, and texts that run into what is beside them.
const sticksOut = `(() => {
  const out = [];
  if (document.documentElement.scrollWidth > window.innerWidth) out.push("the page: " + document.documentElement.scrollWidth + " pixels");
  for (const e of document.querySelectorAll("h1, h2, p, li, dt, dd, th, td, label, button, .button, .badge, .card, .alert"))
    if (e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "visible" && e.closest(".table, details:not([open]), thead") === null)
      out.push(e.tagName + " " + e.textContent.trim().slice(0, 60));
  return out;
})()`

// fits fails where something has no room in the window.
func (w *window) fits(what string) {
	w.t.Helper()
	if out := ask(w, "measuring the page", chromedp.Evaluate[[]string](sticksOut)); len(out) > 0 {
		w.t.Errorf("%s: no room for %q", what, out)
	}
}

// screenshot writes what the window shows to docs/screenshots, with -update.
func (w *window) screenshot(name string) {
	w.t.Helper()
	takenMu.Lock()
	taken[name] = true
	takenMu.Unlock()
	if !*update {
		return
	}
	shot, err := png.Decode(bytes.NewReader(ask(w, "taking a screenshot", chromedp.CaptureScreenshot())))
	if err != nil {
		w.t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, fewColours(shot)); err != nil {
		w.t.Fatal(err)
	}
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(screenshots, name+".png"), out.Bytes(), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// taken are the names of all screenshots of this run.
var (
	takenMu sync.Mutex
	taken   = map[string]bool{}
)

// fewColours draws an image with the 256 colours that it has most of: the files get a third of the size, and nobody sees it.
func fewColours(in image.Image) image.Image {
	count := map[color.NRGBA]int{}
	at := func(x, y int) color.NRGBA { return color.NRGBAModel.Convert(in.At(x, y)).(color.NRGBA) }
	box := in.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(count), func(a, b color.NRGBA) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	var palette color.Palette
	for _, c := range most[:min(256, len(most))] {
		palette = append(palette, c)
	}
	out := image.NewPaletted(box, palette)
	nearest := map[color.NRGBA]uint8{}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			c := at(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(palette.Index(c))
				nearest[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	return out
}

// checkScreenshots: each page has its screenshot, none is left over or large, and each is shown in the docs.
func checkScreenshots(t *testing.T) {
	t.Helper()
	files, err := os.ReadDir(screenshots)
	if err != nil {
		t.Fatalf("%v: make them by: go test -update", err)
	}
	var docs strings.Builder
	pages, err := fs.Glob(os.DirFS("../.."), "docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal("no docs were found", err)
	}
	for _, p := range append(pages, "README.md") {
		text, err := os.ReadFile(filepath.Join("../..", p))
		if err != nil {
			t.Fatal(err)
		}
		docs.Write(text)
	}
	left := maps.Clone(taken)
	for _, f := range files {
		name, isPNG := strings.CutSuffix(f.Name(), ".png")
		info, err := f.Info()
		switch {
		case err != nil:
			t.Error(err)
		case !isPNG || !taken[name]:
			t.Errorf("docs/screenshots/%s is of no page: delete it", f.Name())
		case info.Size() > mostScreenshot:
			t.Errorf("docs/screenshots/%s has %d bytes, more than %d", f.Name(), info.Size(), mostScreenshot)
		case !strings.Contains(docs.String(), "screenshots/"+f.Name()):
			t.Errorf("docs/screenshots/%s is shown on no page of the docs", f.Name())
		}
		delete(left, name)
	}
	for name := range left {
		t.Errorf("docs/screenshots/%s.png is missing: make it by: go test -update", name)
	}
}

// setScheme changes between light and dark for the page that is shown.
func (w *window) setScheme(scheme string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}}); err != nil {
		w.t.Fatal(err)
	}
}

// resize gives the window another size, as that of a phone.
func (w *window) resize(width, height int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	size := emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1}
	if _, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, size); err != nil {
		w.t.Fatal(err)
	}
}
