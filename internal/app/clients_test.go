package app

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// TestPublicCAIsReadAgain: the file is replaced while serve runs, and is for a moment not whole.
func TestPublicCAIsReadAgain(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.pem")
	read := publicCA(config.Cluster{PublicCAFile: file}, &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: []byte("the kubeconfig's")}})
	for i, content := range [][]byte{cert, nil, cert[:len(cert)/2], append(slices.Clone(cert), cert...)} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		whole := i == 0 || i == 3
		if got, err := read(); whole != (err == nil) || whole && string(got) != string(content) {
			t.Errorf("content %d: %d bytes, %v", i, len(got), err)
		}
	}
}
