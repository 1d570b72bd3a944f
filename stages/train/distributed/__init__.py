"""Many processes that train one network: data parallel, sharded, over hosts, restarted."""
