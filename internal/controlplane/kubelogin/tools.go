//go:build tools

package kubelogin

import _ "github.com/int128/kubelogin"
