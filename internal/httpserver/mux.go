package httpserver

import (
	"net/http"

	"github.com/gorilla/mux"
)

// Route is one path of a listener.
type Route struct {
	// Path is a gorilla/mux path template, e.g. "/authenticate" or "/groups/{id:[0-9]+}".
	Path string
	// Methods are the allowed methods; none: the handler decides.
	Methods []string
	Handler http.Handler
}

// Mux serves the routes and answers everything else 404, or 405 for a known path. It redirects nothing: a webhook
// client would lose its body, and a page's path should have one spelling.
func Mux(routes ...Route) http.Handler {
	router := mux.NewRouter().SkipClean(true)
	for _, r := range routes {
		route := router.Handle(r.Path, r.Handler)
		if len(r.Methods) > 0 {
			route.Methods(r.Methods...)
		}
	}
	return router
}

// Vars returns the variables of the request's path.
func Vars(r *http.Request) map[string]string { return mux.Vars(r) }

// Healthz answers 200 as long as the process serves at all.
func Healthz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the caller is gone if this fails
	})
}

// Readyz answers 200 if check returns nil, else 503 with its text.
func Readyz(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := check(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		Healthz().ServeHTTP(w, r)
	})
}
