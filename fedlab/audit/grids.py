"""What a defense builds with that stands between clients and server (`Defense.grid`, `Defense.mods`).

Plugins import it from here, so that the runtime behind it may change.
"""

from fedlab.runtime import client_of as client_of
from fedlab.runtime._flower import error_reply as error_reply
from fedlab.runtime._flower import lost_reply as lost_reply
from fedlab.runtime._flower import number as number
from fedlab.runtime.arrays import array_record as array_record
from fedlab.runtime.arrays import reply_content as reply_content
from fedlab.runtime.arrays import tensors as tensors
from fedlab.runtime.guard.declared import forged as forged
from fedlab.runtime.storage import size as size
from fedlab.runtime.wrapped import WrappedGrid as WrappedGrid
from fedlab.runtime.wrapped import gather as gather
