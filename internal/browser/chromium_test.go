package browser

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// pageTimeout bounds everything that a person waits for in one go: generous, for a machine that does much else.
const pageTimeout = 60 * time.Second

// chromium is one running browser. Its people have each their own cookies, as in windows of their own.
type chromium struct {
	ctx       context.Context // of the browser itself
	downloads string
}

// pin is the public key that a server has, as Chromium wants it named: of a server that a CA vouches for.
func pin(t *testing.T, address string, ca []byte) string {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c, err := tls.Dial("tcp", strings.TrimPrefix(address, "https://"), &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatalf("reading the certificate of %s: %v", address, err)
	}
	defer c.Close()
	sum := sha256.Sum256(c.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// startChromium starts Debian's Chromium, which trusts servers with these public keys and reaches nothing but this machine.
func startChromium(t *testing.T, pins ...string) *chromium {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("SKIPPED: chromium is not installed (.ci/run installs it): no page was opened in a real browser")
	}
	dir := t.TempDir()
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.UserDataDir(filepath.Join(dir, "profile")), chromedp.Env("HOME="+dir),
		chromedp.NoSandbox, // root has none
		chromedp.Flag("ignore-certificate-errors-spki-list", strings.Join(pins, ",")),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
		chromedp.Flag("lang", "en-US"), chromedp.Flag("force-device-scale-factor", "1"), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("font-render-hinting", "none"), chromedp.DisableGPU,
	)...)
	t.Cleanup(cancel) // ends the process, by its id
	c := &chromium{downloads: filepath.Join(dir, "downloads")}
	var end context.CancelFunc
	c.ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(c.ctx); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return c
}

// window is one person's browser window: cookies of its own, and the tab that is looked at.
type window struct {
	t   *testing.T
	c   *chromium
	ctx context.Context // of the tab
	as  settings

	mu      sync.Mutex
	dialogs []string // what alert() and the like have shown
	said    []string // errors in the console: what the page's policy refuses, for one
}

// settings of a window.
type settings struct {
	language string // of the person; "en" if empty
	dark     bool
	noScript bool
}

// window opens a new window.
func (c *chromium) window(t *testing.T, s settings) *window {
	t.Helper()
	return c.start(t, c.ctx, s, chromedp.WithNewBrowserContext())
}

// tab opens another tab of the same window, with the same cookies, at an address.
func (w *window) tab(address string) *window {
	w.t.Helper()
	n := w.c.start(w.t, w.ctx, w.as)
	n.open(address)
	return n
}

func (c *chromium) start(t *testing.T, parent context.Context, s settings, options ...chromedp.ContextOption) *window {
	t.Helper()
	if s.language == "" {
		s.language = "en"
	}
	w := &window{t: t, c: c, as: s}
	var end context.CancelFunc
	w.ctx, end = chromedp.NewContext(parent, options...)
	t.Cleanup(end)
	agent, err := chromedp.Run(w.ctx, chromedp.Evaluate[string](`navigator.userAgent`))
	if err == nil {
		err = w.set(agent)
	}
	if err != nil {
		t.Fatalf("opening a window: %v", err)
	}
	return w
}

// set prepares the window's tab: what it prefers and how large it is, and that nothing it says is lost.
func (w *window) set(agent string) error {
	size := emulation.SetDeviceMetricsOverrideParams{Width: 1280, Height: 800, DeviceScaleFactor: 1}
	scheme := map[bool]string{false: "light", true: "dark"}[w.as.dark]
	_, err := chromedp.Call(w.ctx, emulation.SetDeviceMetricsOverride, size)
	if err == nil {
		_, err = chromedp.Call(w.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
	}
	if err == nil {
		_, err = chromedp.Call(w.ctx, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: w.as.language})
	}
	if err == nil {
		_, err = chromedp.Call(w.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: w.as.noScript})
	}
	if err == nil {
		err = chromedp.Listen(w.ctx, w.hear)
	}
	return err
}

// hear notes what the tab shows and says by itself.
func (w *window) hear(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := event.(type) {
	case *page.EventJavascriptDialogOpening:
		w.dialogs = append(w.dialogs, e.Message)
		go func() {
			_, _ = chromedp.Call(w.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		}()
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			w.said = append(w.said, e.Entry.Text)
		}
	}
}

// do runs actions one after the other; the test ends where one fails.
func (w *window) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, pageTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		w.t.Fatalf("%s: %v\n%s", what, err, w.describe())
	}
}

// ask asks the tab for something; the test ends where it does not answer.
func ask[T any](w *window, what string, action chromedp.Action[T]) T {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, pageTimeout)
	defer cancel()
	got, err := chromedp.Run(ctx, action)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", what, err, w.describe())
	}
	return got
}

const allText = `document.body ? document.body.innerText : ""`

// describe is what a person would see now.
func (w *window) describe() string {
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	address, err := chromedp.Run(ctx, chromedp.Location())
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("the browser is at %s (%v), and shows\n%s\nIts console says %q", address, err, w.textNow(), w.said)
}

// open goes to an address and waits until the page is there.
func (w *window) open(address string) {
	w.t.Helper()
	w.do("opening "+address, chromedp.Navigate(address))
}

// visit is open for a page that may not answer yet.
func (w *window) visit(address string) error {
	ctx, cancel := context.WithTimeout(w.ctx, pageTimeout)
	defer cancel()
	return chromedp.Do(ctx, chromedp.Navigate(address))
}

// text is what the page shows.
func (w *window) text() string {
	w.t.Helper()
	return ask(w, "reading the page", chromedp.Evaluate[string](allText))
}

func (w *window) address() string {
	w.t.Helper()
	return ask(w, "reading the address", chromedp.Location())
}

// shows waits until the page shows a text.
func (w *window) shows(text string) {
	w.t.Helper()
	w.await("the page shows "+text, func() bool { return strings.Contains(w.textNow(), text) })
}

// textNow is the page's text, or nothing while it changes.
func (w *window) textNow() string {
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](allText))
	return text
}

// await waits for something.
func (w *window) await(what string, ok func() bool) {
	w.t.Helper()
	if err := eventually(what, pageTimeout, ok); err != nil {
		w.t.Fatalf("%v\n%s", err, w.describe())
	}
}

func eventually(what string, limit time.Duration, ok func() bool) error {
	for begun := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Since(begun) > limit {
			return fmt.Errorf("not within %v: %s", limit, what)
		}
	}
	return nil
}

// press clicks a link or button by the words on it, and waits for the page that follows.
func (w *window) press(words string) {
	w.t.Helper()
	w.click(fmt.Sprintf(`//a[normalize-space()=%[1]q] | //button[normalize-space()=%[1]q] | //input[@type="submit"][@value=%[1]q]`, words))
}

// click clicks what an XPath or CSS selector finds, and waits for the page that follows.
func (w *window) click(selector string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, pageTimeout)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.Search(selector))); err != nil {
		w.t.Fatalf("clicking %s: %v\n%s", selector, err, w.describe())
	}
}

// signIn signs somebody in on GitLab's form, which the page has to show.
func (w *window) signIn(name string) {
	w.t.Helper()
	w.do("filling in GitLab's form", chromedp.WaitVisible(chromedp.CSS("#user_login")),
		chromedp.SendKeys(chromedp.CSS("#user_login"), name), chromedp.SendKeys(chromedp.CSS("#user_password"), name+"-password"))
	w.press("Sign in")
}

// download clicks a link, and returns the name that the browser saves a file by, and where it has put it.
func (w *window) download(selector string) (name, at string) {
	w.t.Helper()
	if err := os.MkdirAll(w.c.downloads, 0o700); err != nil {
		w.t.Fatal(err)
	}
	begun, done := make(chan string, 1), make(chan string, 1)
	send := func(to chan string, text string) {
		select {
		case to <- text:
		default:
		}
	}
	err := chromedp.ListenBrowser(w.ctx, func(event any) {
		switch e := event.(type) {
		case *browser.EventDownloadWillBegin:
			send(begun, e.SuggestedFilename)
		case *browser.EventDownloadProgress:
			if e.State == browser.DownloadProgressStateCompleted {
				send(done, e.GUID)
			}
		}
	})
	if err == nil {
		yes := true
		_, err = chromedp.CallBrowser(w.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
			Behavior: browser.SetDownloadBehaviorBehaviorAllowAndName, DownloadPath: w.c.downloads, EventsEnabled: &yes,
			BrowserContextID: chromedp.FromContext(w.ctx).BrowserContextID,
		})
	}
	if err != nil {
		w.t.Fatalf("preparing a download: %v", err)
	}
	w.do("downloading", chromedp.Click(chromedp.Search(selector)))
	limit := time.After(pageTimeout)
	for name == "" || at == "" {
		select {
		case name = <-begun:
		case guid := <-done:
			at = filepath.Join(w.c.downloads, guid)
		case <-limit:
			w.t.Fatalf("no file was saved\n%s", w.describe())
		}
	}
	return name, at
}

// noDialog fails where a script that is not ours has run.
func (w *window) noDialog() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.dialogs) > 0 {
		w.t.Errorf("dialogs were shown: %q", w.dialogs)
	}
}
